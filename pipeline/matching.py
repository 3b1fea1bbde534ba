"""Semantic correspondence: the target pixel of greatest cosine similarity, without upsampling descriptors.

The direct method upsamples the target's descriptors to full size and takes the best pixel. Interpolation is
linear, so the dot product with an interpolated vector is the interpolated dot product, and its squared norm is
`w' G w` with the four bilinear weights w and the Gram matrix G of the four tokens around it. Only cells (the
pixels between four tokens) that can hold the best pixel are evaluated: for weights w, norms n and cosines c
of its corners, a pixel's similarity is at most `max(c) * (w . n) / sqrt(w' G w)`. FAISS finds the nearest
token, and the cells around it give the similarity to beat. Where neighbours nearly cancel, that quotient is great
and the identity loses digits: the few such cells are interpolated and compared directly, in float64.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.bilinear import Axis, sample

Floats = NDArray[np.float64]

# Cells where (w . n) / sqrt(w' G w) is greater are compared directly.
DELICATE = 4.0
# Channels summed in float32 before float64 takes over.
CHUNK = 256
# Float32 search may misplace a cosine by this much; the bound gives way by it, so nothing is lost.
SEARCH_SLACK = 1e-4
# Vectors shorter than this have similarity 0, as in torch.nn.functional.normalize.
NORM_EPS = 1e-12
# Pixels evaluated at once, to bound memory.
PIXELS_AT_ONCE = 2_000_000


class Target:
    """A target image made ready: its pixel norms and bounds are computed once, for all queries.

    Args:
        tokens: descriptors in row-major order, [h * w, C], float32.
        grid: (h, w) in tokens. size: (width, height) of the image in pixels.
    """

    def __init__(self, tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]) -> None:
        self.grid, self.size = grid, size
        self.tokens = np.ascontiguousarray(tokens, np.float32)
        h, w = grid
        x_axis, y_axis = Axis.of(w, size[0]), Axis.of(h, size[1])
        self._rows, self._row_weight = _runs(y_axis, h)
        self._columns, self._column_weight = _runs(x_axis, w)

        norms = _pixel_norms(self.tokens.reshape(h, w, -1), x_axis, y_axis)
        length = np.maximum(np.linalg.norm(self.tokens, axis=1), NORM_EPS)
        self._length = length
        plain = _interpolate(length.astype(np.float64).reshape(h, w), x_axis, y_axis)
        rows, columns = self._rows[:, None, :, None], self._columns[None, :, None, :]
        inside = (rows >= 0) & (columns >= 0)
        cells = (h * w, self._rows.shape[1], self._columns.shape[1])
        self._norms = np.where(inside, norms[rows, columns], np.inf).reshape(cells)
        excess = plain[rows, columns] / np.maximum(norms[rows, columns], NORM_EPS)
        excess = np.where(inside, excess, 0).reshape(cells).max(axis=(1, 2))
        # How far a pixel's similarity can rise above the greatest cosine of its cell's corners; 0 marks delicate cells.
        self._excess = np.where(excess <= DELICATE, excess, 0)
        self._delicate = np.flatnonzero(excess > DELICATE)

        self._index = faiss.IndexFlatIP(self.tokens.shape[1])
        self._index.add(self.tokens / length[:, None])

    def match(self, queries: NDArray[np.floating]) -> tuple[NDArray[np.int64], Floats]:
        """Find the pixel of greatest cosine similarity to each query.

        Args:
            queries: source descriptors, [k, C]; their lengths do not matter.

        Returns:
            Pixels (x, y), [k, 2], and their similarities, [k]. Among equals the first in row-major order.
        """
        unit = np.array(queries, np.float64)
        unit /= np.maximum(np.linalg.norm(unit, axis=1), NORM_EPS)[:, None]
        best = np.full(len(queries), -np.inf)
        pixel = np.full(len(queries), np.iinfo(np.int64).max)
        if len(queries) == 0:
            return np.empty((0, 2), np.int64), best
        single = unit.astype(np.float32)
        similarity = single @ self.tokens.T
        nearest = self._index.search(single, 1)[1][:, 0]
        around = (nearest[:, None] + np.array([-self.grid[1] - 1, -self.grid[1], -1, 0])).clip(min=0)
        first = np.zeros((len(queries), len(self._excess)), bool)
        first[np.arange(len(queries))[:, None], around] = True
        first &= self._excess > 0
        query, cell = first.nonzero()
        self._evaluate(similarity, query, cell, best, pixel)
        self._compare(unit, best, pixel)
        query, cell = (self._possible(similarity, best) & ~first).nonzero()
        self._evaluate(similarity, query, cell, best, pixel)
        return np.stack([pixel % self.size[0], pixel // self.size[0]], 1), best

    def _possible(self, similarity: NDArray[np.float32], best: Floats) -> NDArray[np.bool_]:
        """Whether a cell may hold a pixel better than `best`, [k, h * w]."""
        h, w = self.grid
        cosine = (similarity / self._length).reshape(-1, h, w)
        below, beside = np.minimum(np.arange(h) + 1, h - 1), np.minimum(np.arange(w) + 1, w - 1)
        greatest = np.maximum(cosine, cosine[:, below])
        greatest = np.maximum(greatest, greatest[:, :, beside]).reshape(len(best), -1)
        # Where every corner points away, 0 bounds it; and a query that has found nothing is compared with all.
        bound = np.maximum(greatest + SEARCH_SLACK, 0) * self._excess
        possible: NDArray[np.bool_] = (bound >= best[:, None]) | (best < SEARCH_SLACK)[:, None]
        return possible & (self._excess > 0)

    def _compare(self, queries: Floats, best: Floats, pixel: NDArray[np.int64]) -> None:
        """Compare every pixel of the delicate cells with every query, interpolating vectors in float64."""
        width = self.size[0]
        for cell in self._delicate:
            row, column = divmod(int(cell), self.grid[1])
            y, x = (p[p >= 0] for p in (self._rows[row], self._columns[column]))
            points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
            vectors = sample(self.tokens, self.grid, self.size, points)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1), NORM_EPS)[:, None]
            value = queries @ vectors.T
            place = value.argmax(1)
            query = np.arange(len(queries))
            _keep_best(query, value[query, place], points[place, 1] * width + points[place, 0], best, pixel)

    def _evaluate(
        self,
        similarity: NDArray[np.float32],
        query: NDArray[np.int64],
        cell: NDArray[np.int64],
        best: Floats,
        pixel: NDArray[np.int64],
    ) -> None:
        """Compare every pixel of each (query, cell), and keep the best in `best` and `pixel`.

        similarity: dot products of unit queries and tokens, [k, h * w].
        """
        h, w = self.grid
        row, column = np.divmod(cell, w)
        below, beside = np.minimum(row + 1, h - 1), np.minimum(column + 1, w - 1)
        corners = np.stack([row * w + column, row * w + beside, below * w + column, below * w + beside], 1)
        step = max(1, PIXELS_AT_ONCE // max(1, self._norms[0].size))
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            q, r, c = query[part], row[part], column[part]
            s = similarity[q[:, None], corners[part]].astype(np.float64)
            down = self._row_weight[r][:, :, None]
            side = s[:, None, :2] * (1 - down) + s[:, None, 2:] * down
            across = self._column_weight[c][:, None, :]
            value = side[:, :, :1] * (1 - across) + side[:, :, 1:] * across
            value /= np.maximum(self._norms[cell[part]], NORM_EPS)
            outside = (self._rows[r] < 0)[:, :, None] | (self._columns[c] < 0)[:, None, :]
            value[outside] = -np.inf
            value = value.reshape(len(q), -1)
            place = value.argmax(1)
            top = value[np.arange(len(q)), place]
            dy, dx = np.divmod(place, self._columns.shape[1])
            where = self._rows[r, dy] * self.size[0] + self._columns[c, dx]
            _keep_best(q, top, where, best, pixel)


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


def _runs(axis: Axis, tokens: int) -> tuple[NDArray[np.int64], Floats]:
    """The pixels whose lower token is t, and their weights: two arrays [tokens, most]; -1 fills up."""
    counts = np.bincount(axis.lower, minlength=tokens)
    starts = np.cumsum(counts) - counts
    offset = np.arange(counts.max())
    pixels = np.where(offset < counts[:, None], starts[:, None] + offset, -1)
    return pixels, np.where(pixels >= 0, axis.weight[pixels], 0.0)


def _interpolate(values: Floats, x_axis: Axis, y_axis: Axis) -> Floats:
    """A scalar token map [h, w] upsampled to [height, width]."""
    a, b = y_axis.weight[:, None], x_axis.weight
    rows = values[y_axis.lower] * (1 - a) + values[y_axis.upper] * a
    return rows[:, x_axis.lower] * (1 - b) + rows[:, x_axis.upper] * b


def _pixel_norms(tokens: NDArray[np.float32], x_axis: Axis, y_axis: Axis) -> Floats:
    """Lengths of the interpolated vectors, [height, width], from five inner products a token."""
    h, w, _ = tokens.shape
    down, right = np.minimum(np.arange(h) + 1, h - 1), np.minimum(np.arange(w) + 1, w - 1)

    def inner(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
        parts = range(0, tokens.shape[2], CHUNK)
        sums = (np.einsum("hwc,hwc->hw", one[..., c : c + CHUNK], other[..., c : c + CHUNK]) for c in parts)
        return sum((part.astype(np.float64) for part in sums), np.zeros((h, w)))

    own, beside = inner(tokens, tokens), inner(tokens, tokens[:, right])
    below = inner(tokens, tokens[down])
    diagonals = inner(tokens, tokens[down][:, right]) + inner(tokens[:, right], tokens[down])

    top, bottom, a = y_axis.lower, y_axis.upper, y_axis.weight[:, None]
    column = (1 - a) ** 2 * own[top] + a**2 * own[bottom] + 2 * a * (1 - a) * below[top]
    neighbours = (1 - a) ** 2 * beside[top] + a**2 * beside[bottom] + a * (1 - a) * diagonals[top]
    left, b = x_axis.lower, x_axis.weight
    square = (1 - b) ** 2 * column[:, left] + b**2 * column[:, x_axis.upper]
    square += 2 * b * (1 - b) * neighbours[:, left]
    return np.sqrt(np.maximum(square, 0))
