"""Bilinear upsampling of a token grid to pixels: half-pixel centres, clamped at the border (`align_corners=False`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """One axis of the upsampling: pixel p lies between tokens `lower[p]` and `upper[p]`.

    lower, upper: token indices, [pixels], int64. weight: that of the upper token, [pixels], float64.
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, tokens: int, pixels: int) -> "Axis":
        """The axis of `pixels` pixels over `tokens` tokens, as `align_corners=False` defines it."""
        position = np.clip((np.arange(pixels) + 0.5) * (tokens / pixels) - 0.5, 0, tokens - 1)
        lower = np.floor(position).astype(np.int64)
        return cls(lower, np.minimum(lower + 1, tokens - 1), position - lower)


def sample(
    tokens: NDArray[np.floating], grid: tuple[int, int], size: tuple[int, int], points: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The upsampled map at a few pixels.

    Args:
        tokens: token map in row-major order, [h * w, C].
        grid: (h, w) in tokens. size: (width, height) in pixels.
        points: pixels (x, y) inside the image, [k, 2].

    Returns:
        Interpolated vectors [k, C], float64.
    """
    corners, weights = corners_of(grid, size, points)
    return np.einsum("kfc,kf->kc", tokens[corners].astype(np.float64), weights)


def corners_of(
    grid: tuple[int, int], size: tuple[int, int], points: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The four tokens around each pixel and their weights: two arrays [k, 4]; the weights sum to 1."""
    h, w = grid
    x_axis, y_axis = Axis.of(w, size[0]), Axis.of(h, size[1])
    x, y = np.asarray(points).T
    top, bottom = y_axis.lower[y] * w, y_axis.upper[y] * w
    left, right = x_axis.lower[x], x_axis.upper[x]
    corners = np.stack([top + left, top + right, bottom + left, bottom + right], 1)
    a, b = y_axis.weight[y], x_axis.weight[x]
    weights = np.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], 1)
    return corners, weights
