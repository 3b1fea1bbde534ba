"""Nearest-neighbour matching at pixels, from token descriptors.

The protocol upsamples the target's descriptors to full size and takes the best pixel. Interpolation is linear, so
the dot product with an interpolated vector is the interpolated dot product, and its squared norm is `w' G w` with the
four bilinear weights w and the Gram matrix G of the four tokens around it. A *cell* is the pixels between four tokens.
Only cells that can hold the best pixel are evaluated: for weights w, norms n and cosines c of its corners, a pixel's
similarity is at most `max(c) * (w . n) / sqrt(w' G w)`. The cells around the nearest token give the similarity to
beat. Where neighbours nearly cancel, that quotient, the *gain*, is large and the identity loses digits: the few such
cells are interpolated and compared directly, in float64.
"""

import numpy as np
from numpy.typing import NDArray

from ditf.features.bilinear import AxisInterpolation, sample

Floats = NDArray[np.float64]

MOST_GAIN = 4.0  # cells with more are compared directly
PART = 256  # channels summed in float32 before float64 takes over
SLACK = 1e-4  # a cosine in float32 may be wrong by this much; the bound gives way by it, so nothing is lost
NORM_EPS = 1e-12  # shorter vectors have similarity 0, as in torch.nn.functional.normalize
PIXELS_AT_ONCE = 1_000_000  # evaluated, to bound memory


class Target:
    """A target image prepared: its pixel norms and bounds are computed once, for all queries.

    Args:
        tokens: descriptors in row-major order, [h * w, C], float32.
        grid: (h, w) in tokens. size: (width, height) of the image in pixels.
    """

    def __init__(self, tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]) -> None:
        self.grid, self.size = grid, size
        self.tokens = np.ascontiguousarray(tokens, np.float32)
        h, w = grid
        # Pixels and weights by their upper, or left, token: [h, rows of a cell] and [w, columns of a cell].
        self._rows, self._row_weight = _runs(AxisInterpolation.of(h, size[1]), h)
        self._columns, self._column_weight = _runs(AxisInterpolation.of(w, size[0]), w)
        self._below, self._beside = np.minimum(np.arange(h) + 1, h - 1), np.minimum(np.arange(w) + 1, w - 1)

        products = _neighbour_products(self.tokens.reshape(h, w, -1))
        length = np.maximum(np.sqrt(products[0]), NORM_EPS)
        self._length = length.astype(np.float32).ravel()
        cells = (h * w, self._rows.shape[1] * self._columns.shape[1])
        outside = ((self._rows < 0)[:, None, :, None] | (self._columns < 0)[None, :, None, :]).reshape(cells)
        norm = np.maximum(self._pixel_norms(*products).reshape(cells), NORM_EPS)
        gain = np.where(outside, 0, self._interpolated(length).reshape(cells) / norm).max(1)
        # How far a pixel's similarity can rise above the greatest cosine of its cell's corners; 0: compared directly.
        self._gain = np.where(gain <= MOST_GAIN, gain, 0)
        self._direct = np.flatnonzero(gain > MOST_GAIN)
        self._inverse = np.where(outside, 0, 1 / norm)

    def match(self, queries: NDArray[np.floating]) -> tuple[NDArray[np.int64], Floats]:
        """Find the pixel of greatest cosine similarity to each query.

        Args:
            queries: source descriptors, [k, C]; their lengths do not matter.

        Returns:
            Pixels (x, y), [k, 2], and their similarities, [k]. Among equals the first in row-major order.
        """
        best = np.full(len(queries), -np.inf)
        pixel = np.full(len(queries), np.iinfo(np.int64).max)
        if len(queries) == 0:
            return np.empty((0, 2), np.int64), best
        unit = np.array(queries, np.float64)
        unit /= np.maximum(np.linalg.norm(unit, axis=1), NORM_EPS)[:, None]
        dots = unit.astype(np.float32) @ self.tokens.T
        cosine = dots / self._length
        around = cosine.argmax(1)[:, None] + np.array([-self.grid[1] - 1, -self.grid[1], -1, 0])
        first = np.zeros((len(queries), len(self._gain)), bool)
        first[np.arange(len(queries))[:, None], around.clip(min=0)] = True
        first &= self._gain > 0
        self._evaluate(dots, first, best, pixel)
        self._compare_directly(unit, best, pixel)
        self._evaluate(dots, self._possible(cosine, best) & ~first, best, pixel)
        return np.stack([pixel % self.size[0], pixel // self.size[0]], 1), best

    def _possible(self, cosine: NDArray[np.float32], best: Floats) -> NDArray[np.bool_]:
        """Whether a cell may hold a pixel better than `best`, [k, h * w]."""
        maps = cosine.reshape(-1, *self.grid)
        columns = np.maximum(maps, maps[:, self._below])
        greatest = np.maximum(columns, columns[:, :, self._beside]).reshape(len(best), -1)
        # Where every corner points away, 0 bounds it; and a query that has found nothing is compared with all.
        bound = np.maximum(greatest + SLACK, 0) * self._gain
        possible: NDArray[np.bool_] = (bound >= best[:, None]) | (best < SLACK)[:, None]
        return possible & (self._gain > 0)

    def _evaluate(
        self, dots: NDArray[np.float32], chosen: NDArray[np.bool_], best: Floats, pixel: NDArray[np.int64]
    ) -> None:
        """Compare every pixel of the chosen cells, [k, h * w], with each query; keep the best in `best`, `pixel`.

        dots: dot products of unit queries and tokens, [k, h * w].
        """
        query, cell = chosen.nonzero()
        row, column = np.divmod(cell, self.grid[1])
        right, bottom = self._beside[column] - column, (self._below[row] - row) * self.grid[1]
        corners = cell[:, None] + np.stack([0 * right, right, bottom, bottom + right], 1)
        step = max(1, PIXELS_AT_ONCE // self._inverse.shape[1])
        for start in range(0, len(query), step):
            q, r, c, cells = (array[start : start + step] for array in (query, row, column, cell))
            s = dots[q[:, None], corners[start : start + step]].astype(np.float64)
            down, across = self._row_weight[r][:, :, None], self._column_weight[c][:, None, :]
            side = s[:, None, :2] * (1 - down) + s[:, None, 2:] * down
            value = side[:, :, :1] * (1 - across) + side[:, :, 1:] * across
            inverse = self._inverse[cells]
            value = np.where(inverse > 0, value.reshape(len(q), -1) * inverse, -np.inf)
            place = value.argmax(1)
            dy, dx = np.divmod(place, self._columns.shape[1])
            where = self._rows[r, dy] * self.size[0] + self._columns[c, dx]
            _keep_best(q, value[np.arange(len(q)), place], where, best, pixel)

    def _compare_directly(self, queries: Floats, best: Floats, pixel: NDArray[np.int64]) -> None:
        """Compare every pixel of the cells of large gain with every query, interpolating vectors in float64."""
        for cell in self._direct:
            row, column = divmod(int(cell), self.grid[1])
            y, x = (p[p >= 0] for p in (self._rows[row], self._columns[column]))
            points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
            vectors = sample(self.tokens, self.grid, self.size, points)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1), NORM_EPS)[:, None]
            value = queries @ vectors.T
            place = value.argmax(1)
            query = np.arange(len(queries))
            _keep_best(query, value[query, place], points[place, 1] * self.size[0] + points[place, 0], best, pixel)

    def _interpolated(self, values: Floats) -> Floats:
        """A scalar token map [h, w] at every pixel of every cell, [h, w, rows, columns]."""
        a, b = self._row_weight[:, None, :], self._column_weight[None, :, None, :]
        down = values[:, :, None] * (1 - a) + values[self._below][:, :, None] * a
        down = down[..., None]
        return down * (1 - b) + down[:, self._beside] * b

    def _pixel_norms(self, own: Floats, right: Floats, below: Floats, diagonals: Floats) -> Floats:
        """Lengths of the interpolated vectors at every pixel of every cell, [h, w, rows, columns]."""
        a, b = self._row_weight[:, None, :], self._column_weight[None, :, None, :]
        p, q, r = (1 - a) ** 2, a**2, a * (1 - a)
        left = p * own[:, :, None] + q * own[self._below][:, :, None] + 2 * r * below[:, :, None]
        cross = p * right[:, :, None] + q * right[self._below][:, :, None] + r * diagonals[:, :, None]
        left, cross = left[..., None], cross[..., None]
        square = (1 - b) ** 2 * left + b**2 * left[:, self._beside] + 2 * b * (1 - b) * cross
        return np.sqrt(np.maximum(square, 0))


def _neighbour_products(tokens: NDArray[np.float32]) -> tuple[Floats, Floats, Floats, Floats]:
    """Inner products of each token [h, w, C] with itself, with the one to its right, with the one below, and the sum of
    both diagonals of its cell; each [h, w]. A row of tokens at a time, so that it stays in the processor's cache."""
    h, w, _ = tokens.shape
    beside = np.minimum(np.arange(w) + 1, w - 1)
    own, right, below, diagonals = np.empty((4, h, w))
    for y in range(h):
        here, under = tokens[y], tokens[min(y + 1, h - 1)]
        here_right, under_right = here[beside], under[beside]
        own[y], right[y], below[y] = _dot(here, here), _dot(here, here_right), _dot(here, under)
        diagonals[y] = _dot(here, under_right) + _dot(here_right, under)
    return own, right, below, diagonals


def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Inner products of the rows of two arrays [n, C], [n]: in parts of float32 by BLAS, summed in float64."""
    parts = range(0, one.shape[1], PART)
    return sum((np.vecdot(one[:, c : c + PART], other[:, c : c + PART]).astype(np.float64) for c in parts), np.zeros(1))


def _keep_best(
    query: NDArray[np.int64],
    value: Floats,
    where: NDArray[np.int64],
    best: Floats,
    pixel: NDArray[np.int64],
) -> None:
    """Merge (query, value, pixel) rows into `best` and `pixel`; among equals the first pixel stays."""
    order = np.lexsort((where, -value, query))
    first = order[np.unique(query[order], return_index=True)[1]]
    first = first[np.isfinite(value[first])]
    q, v, p = query[first], value[first], where[first]
    better = (v > best[q]) | ((v == best[q]) & (p < pixel[q]))
    best[q[better]], pixel[q[better]] = v[better], p[better]


def _runs(axis: AxisInterpolation, tokens: int) -> tuple[NDArray[np.int64], Floats]:
    """The pixels whose lower token is t, and their weights: two arrays [tokens, most]; -1 fills up."""
    counts = np.bincount(axis.lower, minlength=tokens)
    starts = np.cumsum(counts) - counts
    offset = np.arange(counts.max())
    pixels = np.where(offset < counts[:, None], starts[:, None] + offset, -1)
    return pixels, np.where(pixels >= 0, axis.weight[pixels], 0.0)
