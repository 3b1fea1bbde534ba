"""Semantic correspondence: the target pixel of greatest cosine similarity, without upsampling descriptors.

The direct method upsamples the target's descriptors to full size and takes the best pixel. Interpolation is
linear, so the dot product with an interpolated vector is the interpolated dot product, and its squared norm is
`w' G w` with the four bilinear weights w and the Gram matrix G of the four tokens around it. Only cells (the
pixels between four tokens) that can hold the best pixel are evaluated, in float64: for weights w,
norms n and cosines c of its corners, a pixel's similarity is at most `max(c) * (w . n) / sqrt(w' G w)`.
FAISS finds the tokens whose cosine is great enough.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.bilinear import Axis

Floats = NDArray[np.float64]

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
        length = np.sqrt(np.einsum("nc,nc->n", self.tokens, self.tokens, dtype=np.float64))
        plain = _interpolate(length.reshape(h, w), x_axis, y_axis)
        rows, columns = self._rows[:, None, :, None], self._columns[None, :, None, :]
        inside = (rows >= 0) & (columns >= 0)
        cells = (h * w, self._rows.shape[1], self._columns.shape[1])
        self._norms = np.where(inside, norms[rows, columns], np.inf).reshape(cells)
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = plain[rows, columns] / norms[rows, columns]
        excess = np.where(inside, np.nan_to_num(excess, nan=np.inf, posinf=np.inf), 0).reshape(cells)
        # How far a pixel's similarity can rise above the greatest cosine of its cell's corners.
        self._excess = excess.max(axis=(1, 2))

        self._index = faiss.IndexFlatIP(self.tokens.shape[1])
        self._index.add(self.tokens / np.maximum(length, NORM_EPS)[:, None].astype(np.float32))

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
        _, nearest = self._index.search(unit.astype(np.float32), 1)
        query, cell = self._around(np.arange(len(queries)), nearest[:, 0])
        self._evaluate(unit, query, cell, best, pixel)
        seen = query * len(self._excess) + cell
        candidates = self._candidates(unit, best)
        candidates = candidates[~np.isin(candidates, seen)]
        self._evaluate(unit, *np.divmod(candidates, len(self._excess)), best, pixel)
        return np.stack([pixel % self.size[0], pixel // self.size[0]], 1), best

    def _around(
        self, query: NDArray[np.int64], token: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each (query, token) with every cell that the token is a corner of."""
        w = self.grid[1]
        row = np.stack([token // w - 1, token // w - 1, token // w, token // w], 1)
        column = np.stack([token % w - 1, token % w, token % w - 1, token % w], 1)
        exists = (row >= 0) & (column >= 0)
        return np.broadcast_to(query[:, None], row.shape)[exists], (row * w + column)[exists]

    def _candidates(self, queries: Floats, best: Floats) -> NDArray[np.int64]:
        """Every (query, cell) that may hold a pixel better than `best`, as query * cells + cell, distinct."""
        cells = len(self._excess)
        reachable = self._excess[np.isfinite(self._excess)].max(initial=1.0)
        everywhere = np.flatnonzero(~np.isfinite(self._excess))
        # The bound needs a positive similarity; a query that has none is compared with all.
        bounded = best > 2 * SEARCH_SLACK * reachable
        free = np.flatnonzero(~bounded)
        codes = [
            (free[:, None] * cells + np.arange(cells)).ravel(),
            (np.arange(len(queries))[:, None] * cells + everywhere).ravel(),
        ]
        chosen = np.flatnonzero(bounded)
        if len(chosen):
            threshold = best[chosen] / reachable - SEARCH_SLACK
            scaled = (queries[chosen] / threshold[:, None]).astype(np.float32)
            limits, cosine, token = self._index.range_search(scaled, 1.0 - 1e-5)
            which = np.repeat(np.arange(len(chosen)), np.diff(limits.astype(np.int64)))
            found, cell = self._around(np.arange(len(which)), token)
            height = cosine[found] * threshold[which[found]] + SEARCH_SLACK
            promising = height * self._excess[cell] >= best[chosen[which[found]]]
            codes.append((chosen[which[found]] * cells + cell)[promising])
        return np.unique(np.concatenate(codes))

    def _evaluate(
        self,
        queries: Floats,
        query: NDArray[np.int64],
        cell: NDArray[np.int64],
        best: Floats,
        pixel: NDArray[np.int64],
    ) -> None:
        """Compare every pixel of each (query, cell) in float64, and keep the best in `best` and `pixel`."""
        h, w = self.grid
        row, column = np.divmod(cell, w)
        below, beside = np.minimum(row + 1, h - 1), np.minimum(column + 1, w - 1)
        corners = np.stack([row * w + column, row * w + beside, below * w + column, below * w + beside], 1)
        needed, corners = np.unique(corners, return_inverse=True)
        similarity = queries @ self.tokens[needed].astype(np.float64).T
        step = max(1, PIXELS_AT_ONCE // max(1, self._norms[0].size))
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            q, r, c = query[part], row[part], column[part]
            s = similarity[q[:, None], corners.reshape(-1, 4)[part]]
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
        return np.einsum("hwc,hwc->hw", one, other, dtype=np.float64)

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
