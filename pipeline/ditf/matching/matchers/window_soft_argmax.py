"""Window soft-argmax: the mean of the tokens around the most similar one, weighted by their similarity.

Method: Zhang et al., "Telling Left from Right: Identifying Geometry-Aware Semantic Correspondence" (arXiv 2311.17034).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from ditf.features.descriptors import unit
from ditf.matching.matchers.base import Floats, Matcher


class WindowSoftArgmax(Matcher):
    """The expected token under a softmax of the similarities, those outside a window taken as 0.

    window: tokens to each side of the most similar one; 0: no window, and below 0 a Gaussian of that many tokens in its
    place. temperature: of the softmax.
    """

    window: int = 7
    temperature: FiniteFloat = Field(default=0.02, gt=0)

    def match(
        self, queries: NDArray[np.float32], tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[Any], Floats]:
        similarity = (unit(queries) @ unit(tokens).T).astype(np.float64)
        place = soft_argmax(similarity.reshape(-1, *grid), self.window, self.temperature)
        pixels = (place + 0.5) * (np.array(size) / grid[::-1]) - 0.5
        return np.clip(pixels, 0, np.array(size) - 1), similarity.max(1)


def soft_argmax(similarity: Floats, window: int, temperature: float) -> Floats:
    """Expected tokens (x, y), [k, 2], of similarity maps [k, h, w]; see `WindowSoftArgmax`."""
    count, h, w = similarity.shape
    best = similarity.reshape(count, -1).argmax(1)
    y, x = np.divmod(best, w)
    down, across = np.arange(h) - y[:, None], np.arange(w) - x[:, None]
    if window > 0:
        kept = (np.abs(down) <= window)[:, :, None] & (np.abs(across) <= window)[:, None, :]
        similarity = np.where(kept, similarity, 0.0)
    elif window < 0:
        similarity = similarity * np.exp(-(down[:, :, None] ** 2 + across[:, None, :] ** 2) / (2 * window**2))
    weight = np.exp((similarity - similarity.max((1, 2), keepdims=True)) / temperature)
    weight /= weight.sum((1, 2), keepdims=True)
    return np.stack([weight.sum(1) @ np.arange(w), weight.sum(2) @ np.arange(h)], 1)
