"""Matchers: each file finds, for points of one image, the points of another that look most alike."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ditf.settings import Settings

Floats = NDArray[np.float64]


class Matcher(Settings):
    """A `matcher` of a correspondence: how a point of the target is found, and how sure that is.

    Attributes:
        back: whether each match is matched back to the source, for its confidence.
        type: its registered name or dotted path.
    """

    registry: ClassVar[str] = "ditf.matching.matchers"
    version: ClassVar[int] = 1  # raised by whoever changes results of this class and its subclasses

    back: ClassVar[bool] = False

    type: str

    @abstractmethod
    def match(
        self, queries: NDArray[np.float32], tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[Any], Floats]:
        """Find points of a target image.

        Args:
            queries: descriptors of points of source images, [k, C].
            tokens: descriptors of the target, row-major, [h * w, C].
            grid: (h, w) in tokens. size: (width, height) of the target in pixels.

        Returns:
            Points (x, y) in pixels, [k, 2], and the cosine similarity of each to its query, [k].
        """

    def confidence(self, similarity: Floats, distance: Floats) -> Floats:
        """How sure each match is, [k]; greater is surer.

        Args:
            similarity: of each match, [k].
            distance: in tokens of the source, from each point to where its match is matched back, [k]; 0 unless `back`.
        """
        return similarity
