"""Nearest neighbour among all pixels of the upsampled target, as in the protocol of SPair-71k."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditf.matching.matchers.base import Floats, Matcher
from ditf.matching.nearest import Device, PixelIndex


class Nearest(Matcher):
    """Find the exact nearest neighbour among all pixels.

    Attributes:
        device: Where FAISS compares descriptors: "cpu", "cuda" (needs faiss-gpu), or "auto" for a GPU if FAISS finds
            one.
    """

    device: Device = "auto"

    def match(
        self, queries: NDArray[np.float32], tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[Any], Floats]:
        return PixelIndex(tokens, grid, size, self.device).search(queries)
