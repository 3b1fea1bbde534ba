"""Bilinear upsampling of a token grid to pixels, as `align_corners=False` defines it: borders are clamped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AxisInterpolation:
    """Linear interpolation along one axis. Pixel p lies between the tokens `lower[p]` and `upper[p]`.

    Attributes:
        lower: Index of the lower token, int64 [pixels].
        upper: Index of the upper token, int64 [pixels].
        weight: Weight of the upper token, float64 [pixels].
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, tokens: int, pixels: int) -> "AxisInterpolation":
        """Interpolate at the centres of all pixels.

        Args:
            tokens: Number of tokens along the axis.
            pixels: Number of pixels along the axis.
        """
        return cls.at(np.arange(pixels), tokens, pixels)

    @classmethod
    def at(cls, points: NDArray[Any], tokens: int, pixels: int) -> "AxisInterpolation":
        """Interpolate at some points.

        Args:
            points: Positions on the axis in pixels, [k]. Integers are the centres of pixels.
            tokens: Number of tokens along the axis.
            pixels: Number of pixels along the axis.
        """
        position = np.clip((points + 0.5) * (tokens / pixels) - 0.5, 0, tokens - 1)
        lower = np.floor(position).astype(np.int64)
        return cls(lower, np.minimum(lower + 1, tokens - 1), position - lower)


def sample(
    tokens: NDArray[np.floating], grid: tuple[int, int], size: tuple[int, int], points: NDArray[Any]
) -> NDArray[np.float64]:
    """Sample the upsampled token map at a few points.

    Args:
        tokens: Token map in row-major order, [h * w, C].
        grid: Rows and columns of tokens.
        size: Width and height of the image in pixels.
        points: Points (x, y) in pixels, [k, 2]. Integers are the centres of pixels.

    Returns:
        Interpolated vectors [k, C], float64.
    """
    corners, weights = corners_of(grid, size, points)
    return np.einsum("kfc,kf->kc", tokens[corners].astype(np.float64), weights)


def corners_of(
    grid: tuple[int, int], size: tuple[int, int], points: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the four tokens around each point.

    Args:
        grid: Rows and columns of tokens.
        size: Width and height of the image in pixels.
        points: Points (x, y) in pixels, [k, 2].

    Returns:
        Indices of the tokens, [k, 4], and their weights, [k, 4]. The weights of a point sum to 1.
    """
    h, w = grid
    x, y = np.asarray(points).T
    columns, rows = AxisInterpolation.at(x, w, size[0]), AxisInterpolation.at(y, h, size[1])
    top, bottom = rows.lower * w, rows.upper * w
    corners = np.stack([top + columns.lower, top + columns.upper, bottom + columns.lower, bottom + columns.upper], 1)
    a, b = rows.weight, columns.weight
    weights = np.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], 1)
    return corners, weights
