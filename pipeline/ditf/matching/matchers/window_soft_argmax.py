"""Window soft-argmax: the mean position of the tokens around the most similar token, weighted by similarity.

Method: Zhang et al., "Telling Left from Right: Identifying Geometry-Aware Semantic Correspondence" (arXiv 2311.17034).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from ditf.features.descriptors import unit
from ditf.matching.matchers.base import Floats, Matcher


class WindowSoftArgmax(Matcher):
    """Compute the expected position under a softmax of the similarities. Outside a window, similarities count as 0.

    Attributes:
        window: Number of tokens on each side of the most similar token. 0 means no window. A negative value means a
            Gaussian instead of a window, with its absolute value as standard deviation in tokens.
        temperature: Temperature of the softmax.
    """

    window: int = 7
    temperature: FiniteFloat = Field(default=0.02, gt=0)

    def match(
        self, queries: NDArray[np.float32], tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[Any], Floats]:
        similarity = (unit(queries) @ unit(tokens).T).astype(np.float64)
        position = soft_argmax(similarity.reshape(-1, *grid), self.window, self.temperature)
        pixels = (position + 0.5) * (np.array(size) / grid[::-1]) - 0.5
        return np.clip(pixels, 0, np.array(size) - 1), similarity.max(1)


def soft_argmax(similarity: Floats, window: int, temperature: float) -> Floats:
    """Compute the expected position under a softmax of similarities.

    Args:
        similarity: Similarity maps, float64 [k, h, w].
        window: Size of the window, as in `WindowSoftArgmax`.
        temperature: Temperature of the softmax.

    Returns:
        Positions (x, y) in tokens, [k, 2].
    """
    count, h, w = similarity.shape
    y, x = np.divmod(similarity.reshape(count, -1).argmax(1), w)
    dy, dx = np.arange(h) - y[:, None], np.arange(w) - x[:, None]
    if window > 0:
        inside = (np.abs(dy) <= window)[:, :, None] & (np.abs(dx) <= window)[:, None, :]
        similarity = np.where(inside, similarity, 0.0)
    elif window < 0:
        similarity = similarity * np.exp(-(dy[:, :, None] ** 2 + dx[:, None, :] ** 2) / (2 * window**2))
    weight = np.exp((similarity - similarity.max((1, 2), keepdims=True)) / temperature)
    weight /= weight.sum((1, 2), keepdims=True)
    return np.stack([weight.sum(1) @ np.arange(w), weight.sum(2) @ np.arange(h)], 1)
