"""The base class of matchers."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ditf.settings import Settings

Floats = NDArray[np.float64]


class Matcher(Settings):
    """Base class of matchers. A matcher finds the matches of points, and rates their confidence.

    Attributes:
        version: Version of the results. Raise it in a change that alters results of this class and its subclasses.
        check_cycle: Whether each match is matched back to the source image. The confidence may depend on the result.
        type: Built-in name of the matcher, or "package.module.Class".
    """

    registry: ClassVar[str] = "ditf.matching.matchers"
    version: ClassVar[int] = 1

    check_cycle: ClassVar[bool] = False

    type: str

    @abstractmethod
    def match(
        self, queries: NDArray[np.float32], tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[Any], Floats]:
        """Find the matches of queries in a target image.

        Args:
            queries: Descriptors of points of source images, float32 [k, C].
            tokens: Token descriptors of the target image in row-major order, float32 [h * w, C].
            grid: Rows and columns of tokens, (h, w).
            size: Width and height of the target image in pixels.

        Returns:
            Matches (x, y) in pixels, [k, 2], and their cosine similarities, [k].
        """

    def confidence(self, similarity: Floats, cycle_distance: Floats) -> Floats:
        """Rate the confidence of each match.

        Args:
            similarity: Cosine similarity of each match, [k].
            cycle_distance: Distance in tokens between each source point and its match matched back, [k]. It is 0 unless
                `check_cycle` is set.

        Returns:
            Confidences, [k]. A greater value is more confident.
        """
        return similarity
