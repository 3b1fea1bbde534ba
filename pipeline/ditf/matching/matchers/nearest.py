"""The pixel of greatest similarity among all pixels of the upsampled target: SPair-71k's protocol."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditf.matching.matchers.base import Floats, Matcher
from ditf.matching.nearest import Target


class Nearest(Matcher):
    """The nearest neighbour at pixels, exactly."""

    def match(
        self, queries: NDArray[np.float32], tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[Any], Floats]:
        return Target(tokens, grid, size).match(queries)
