"""Nearest-neighbour search over the pixels of an image, using its token descriptors.

The protocol upsamples the target's token descriptors bilinearly to all pixels. It then chooses the pixel with the
greatest cosine similarity to a query. This module finds the same pixel without upsampling descriptors. FAISS compares
the query with the tokens, an upper bound selects a shortlist of pixels, and only these are scored.

A *cell* is the set of pixels between the same four tokens x_i, its *corners*. A pixel p of the cell has the descriptor
v(p) = sum_i w_i(p) x_i with bilinear weights w_i(p). Its similarity to the unit query q is

    s(p) = <q, v(p)> / |v(p)|.

1. **Scoring.** Since <q, v(p)> = sum_i w_i(p) <q, x_i>, the numerator is the upsampled map of the inner products that
   FAISS returns. The denominator does not depend on the query: |v(p)|^2 = w(p)' G w(p) with the inner products
   G_ij = <x_i, x_j> of the corners. It is computed once per image.
2. **Bound.** Let c be the greatest cosine similarity of the query to a corner. Then <q, x_i> <= c |x_i| and

       s(p) <= c * r(p)   with   r(p) = sum_i w_i(p) |x_i| / |v(p)| >= 1.

   The *gain* of the cell is the greatest r(p) of its pixels, so no pixel of the cell exceeds max(c, c * gain).
3. **Shortlist.** The cells with the greatest bounds are scored. The shortlist grows while the bound of another cell
   reaches the best score. After that, no other pixel can be better.

If the corners of a cell nearly cancel, its gain is large and w' G w is inaccurate because of rounding. Such cells are
rare. The descriptors of their pixels are interpolated and compared with every query.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.features.bilinear import AxisInterpolation, sample

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Device = Literal["auto", "cpu", "cuda"]

SHORTLIST = 8  # cells that are scored first
GROWTH = 4  # factor by which the shortlist grows
LARGEST_GAIN = 4.0  # the pixels of cells with a larger gain are interpolated
SLACK = 1e-4  # upper limit of the rounding error of a cosine similarity in float32
NORM_EPS = 1e-12  # vectors shorter than this have similarity 0, as in torch.nn.functional.normalize
FLOAT32_TERMS = 256  # products summed in float32 before float64 takes over
SCORES_AT_ONCE = 1_000_000  # limits the memory used for scoring


@dataclass(frozen=True)
class Strips:
    """The pixels of one axis, grouped by the two tokens on either side.

    Attributes:
        lower: Token before each strip, [s].
        upper: Token after each strip, [s].
        pixels: Pixels of each strip, [s, p]. A shorter strip repeats its last pixel.
        weight: Weight of the upper token at each of the pixels, [s, p].
    """

    lower: Indices
    upper: Indices
    pixels: Indices
    weight: Floats

    @classmethod
    def of(cls, tokens: int, pixels: int) -> "Strips":
        """Group the pixels of an axis.

        Args:
            tokens: Number of tokens along the axis.
            pixels: Number of pixels along the axis.
        """
        axis = AxisInterpolation.of(tokens, pixels)
        lower, first, count = np.unique(axis.lower, return_index=True, return_counts=True)
        members = np.minimum(first[:, None] + np.arange(count.max()), (first + count - 1)[:, None])
        return cls(lower, axis.upper[first], members, axis.weight[members])


class PixelIndex:
    """Search for the most similar pixels of one image.

    Args:
        tokens: Token descriptors in row-major order, float32 [h * w, C].
        grid: Rows and columns of tokens, (h, w).
        size: Width and height of the image in pixels.
        device: Where FAISS compares queries with tokens; see `inner_products`.
    """

    def __init__(
        self, tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int], device: Device = "cpu"
    ) -> None:
        self.grid, self.size, self.device = grid, size, device
        self.tokens = np.ascontiguousarray(tokens, np.float32)
        self._rows, self._columns = rows, columns = Strips.of(grid[0], size[1]), Strips.of(grid[1], size[0])
        shape = (len(rows.lower), len(columns.lower))
        row_of_cell, column_of_cell = (index.ravel() for index in np.indices(shape))
        tokens_of_rows, tokens_of_columns = (np.stack([axis.lower, axis.upper], 1) for axis in (rows, columns))
        corners = tokens_of_rows[row_of_cell][:, :, None] * grid[1] + tokens_of_columns[column_of_cell][:, None, :]

        norms, lengths = self._norms()
        self._lengths = lengths.astype(np.float32).ravel()
        upsampled_lengths = interpolate(
            lengths.ravel()[corners], rows.weight[row_of_cell], columns.weight[column_of_cell]
        )
        gain = (upsampled_lengths / norms.reshape(upsampled_lengths.shape)).max((1, 2))

        self._scored = np.flatnonzero(gain <= LARGEST_GAIN)
        self._compared_directly = np.flatnonzero(gain > LARGEST_GAIN)
        self._row, self._column, self._corners, self._gain = (
            values[self._scored] for values in (row_of_cell, column_of_cell, corners, gain.astype(np.float32))
        )
        pixels = rows.pixels[:, None, :, None] * size[0] + columns.pixels[None, :, None, :]
        self._pixels = pixels.reshape(len(gain), -1)[self._scored]
        self._inverse_norms = 1 / norms.reshape(len(gain), -1)[self._scored]

    def search(self, queries: NDArray[np.floating]) -> tuple[Indices, Floats]:
        """Find the pixel with the greatest cosine similarity to each query.

        Args:
            queries: Descriptors of any length, [k, C].

        Returns:
            Pixels (x, y), int64 [k, 2], and their similarities, float64 [k]. Ties are broken in row-major order.
        """
        unit = np.array(queries, np.float64)
        unit /= np.maximum(np.linalg.norm(unit, axis=1), NORM_EPS)[:, None]
        best = BestPixels.none(len(unit))
        self._compare_directly(unit, best)
        pending = np.arange(len(unit)) if len(self._scored) else np.arange(0)
        if len(pending):
            products = inner_products(unit.astype(np.float32), self.tokens, self.device)
            bounds = self._bounds(products)
        count = SHORTLIST
        while len(pending):
            shortlist, next_bound = greatest(bounds[pending], count)
            step = max(1, SCORES_AT_ONCE // (shortlist.shape[1] * self._pixels.shape[1]))
            for start in range(0, len(pending), step):
                chunk = slice(start, start + step)
                self._score(products, pending[chunk], shortlist[chunk], best)
            pending = pending[next_bound >= best.score[pending]]
            count *= GROWTH
        return np.stack([best.pixel % self.size[0], best.pixel // self.size[0]], 1), best.score

    def _bounds(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute an upper bound of the similarities in each scored cell.

        Args:
            products: Inner products of all queries and tokens, float32 [k, h * w].

        Returns:
            Bounds, float32 [k, cells].
        """
        cosine = (products / self._lengths).reshape(-1, *self.grid)
        cosine = np.maximum(cosine[:, self._rows.lower], cosine[:, self._rows.upper])
        cosine = np.maximum(cosine[:, :, self._columns.lower], cosine[:, :, self._columns.upper])
        greatest_corner = cosine.reshape(len(products), -1)[:, self._scored] + np.float32(SLACK)
        return np.maximum(greatest_corner, greatest_corner * self._gain)

    def _score(self, products: NDArray[np.float32], queries: Indices, cells: Indices, best: "BestPixels") -> None:
        """Score all pixels of the given cells and keep the best.

        Args:
            products: Inner products of all queries and tokens, float32 [k, h * w].
            queries: Indices of queries, [q].
            cells: Cells to score for each of these queries, [q, c].
            best: Best pixels so far, updated in place.
        """
        corners = products[queries[:, None, None, None], self._corners[cells]].astype(np.float64)
        row_weight, column_weight = self._rows.weight[self._row[cells]], self._columns.weight[self._column[cells]]
        scores = interpolate(corners, row_weight, column_weight).reshape(*cells.shape, -1) * self._inverse_norms[cells]
        score = scores.max((1, 2))
        pixel = np.where(scores == score[:, None, None], self._pixels[cells], best.NO_PIXEL).min((1, 2))
        best.update(queries, score, pixel)

    def _compare_directly(self, queries: Floats, best: "BestPixels") -> None:
        """Interpolate the descriptors in cells with a large gain, and compare them with all queries.

        Args:
            queries: Unit descriptors, float64 [k, C].
            best: Best pixels so far, updated in place.
        """
        for cell in self._compared_directly:
            row, column = divmod(int(cell), len(self._columns.lower))
            y, x = np.unique(self._rows.pixels[row]), np.unique(self._columns.pixels[column])
            points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
            vectors = sample(self.tokens, self.grid, self.size, points)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1), NORM_EPS)[:, None]
            scores = queries @ vectors.T
            first = scores.argmax(1)
            pixel = points[first, 1] * self.size[0] + points[first, 0]
            best.update(np.arange(len(queries)), scores.max(1), pixel)

    def _norms(self) -> tuple[Floats, Floats]:
        """Compute the lengths of descriptors.

        Returns:
            |v(p)| of the pixels of all cells, [rows, columns, p, q], and |x_i| of all tokens, [h, w].
        """
        squares, neighbour, below, diagonals = neighbour_products(self.tokens.reshape(*self.grid, -1))
        rows, columns = self._rows, self._columns
        a, b = rows.weight[:, None, :], columns.weight[None, :, None, :]
        # Squared lengths on the vertical edges between cells, and inner products of the two edges of each cell.
        edges = (1 - a) ** 2 * squares[rows.lower][:, :, None] + a**2 * squares[rows.upper][:, :, None]
        edges += 2 * a * (1 - a) * below[rows.lower][:, :, None]
        across = (1 - a) ** 2 * neighbour[rows.lower][:, :, None] + a**2 * neighbour[rows.upper][:, :, None]
        across += a * (1 - a) * diagonals[rows.lower][:, :, None]
        left, across, right = edges[:, columns.lower], across[:, columns.lower], edges[:, columns.upper]
        square = (1 - b) ** 2 * left[..., None] + b**2 * right[..., None] + 2 * b * (1 - b) * across[..., None]
        norms = np.sqrt(np.maximum(square, 0))
        return np.maximum(norms, NORM_EPS), np.maximum(np.sqrt(squares), NORM_EPS)


@dataclass(frozen=True)
class BestPixels:
    """The best pixel of each query so far.

    Attributes:
        score: Similarity of the pixel, float64 [k].
        pixel: Index of the pixel in row-major order, int64 [k].
    """

    score: Floats
    pixel: Indices

    NO_PIXEL = np.iinfo(np.int64).max

    @classmethod
    def none(cls, count: int) -> "BestPixels":
        """Return the state of `count` queries before any pixel is scored."""
        return cls(np.full(count, -np.inf), np.full(count, cls.NO_PIXEL))

    def update(self, queries: Indices, score: Floats, pixel: Indices) -> None:
        """Replace pixels by better ones, or by equally good ones that come earlier in row-major order.

        Args:
            queries: Distinct indices of queries, [q].
            score: Similarity of a new pixel for each query, [q].
            pixel: Index of the new pixel, [q].
        """
        old = self.score[queries]
        better = (score > old) | ((score == old) & (pixel < self.pixel[queries]))
        self.score[queries[better]], self.pixel[queries[better]] = score[better], pixel[better]


def inner_products(
    queries: NDArray[np.float32], tokens: NDArray[np.float32], device: Device = "cpu"
) -> NDArray[np.float32]:
    """Return the inner products of all queries and tokens, computed by FAISS.

    Args:
        queries: Query descriptors, float32 [k, C].
        tokens: Token descriptors, float32 [n, C].
        device: "cpu", "cuda" (needs faiss-gpu), or "auto" for a GPU if FAISS finds one.

    Returns:
        Inner products, float32 [k, n].

    Raises:
        UserError: The device is "cuda", but FAISS finds no GPU.
    """
    import faiss  # here, because parameters are read without it

    if device == "cuda" and not faiss.get_num_gpus():
        raise UserError(
            "device: cuda, but FAISS finds no GPU. Install faiss-gpu-cu12 instead of faiss-cpu, or choose cpu."
        )
    if device != "cpu" and faiss.get_num_gpus():
        on_gpu: Any = faiss.pairwise_distance_gpu(_gpu_resources(), queries, tokens, metric=faiss.METRIC_INNER_PRODUCT)
        return np.asarray(on_gpu)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the products are small, and targets are searched in parallel
    try:
        return np.asarray(faiss.pairwise_distances(queries, tokens, faiss.METRIC_INNER_PRODUCT))
    finally:
        faiss.omp_set_num_threads(threads)


@cache
def _gpu_resources() -> Any:
    """Return FAISS's workspace on the GPU, which is allocated once."""
    import faiss

    return faiss.StandardGpuResources()


def interpolate(corners: Floats, row_weight: Floats, column_weight: Floats) -> Floats:
    """Interpolate a value between the four corners of each cell.

    Args:
        corners: Values at the corners of each cell, [..., 2, 2].
        row_weight: Weight of the lower corners in each row of pixels, [..., p].
        column_weight: Weight of the right corners in each column of pixels, [..., q].

    Returns:
        Values at the pixels of each cell, [..., p, q].
    """
    a, b = row_weight[..., None], column_weight[..., None, :]
    sides = corners[..., None, 0, :] * (1 - a) + corners[..., None, 1, :] * a
    return sides[..., :1] * (1 - b) + sides[..., 1:] * b


def greatest(bounds: NDArray[np.float32], count: int) -> tuple[Indices, NDArray[np.float32]]:
    """Find the cells with the greatest bounds.

    Args:
        bounds: Bounds of all cells, [k, cells].
        count: Cells to find for each query.

    Returns:
        The cells in any order, [k, count], and the greatest bound of the other cells, [k]. If there are no other cells,
        this bound is -inf.
    """
    cells = bounds.shape[1]
    if count >= cells:
        return np.broadcast_to(np.arange(cells), bounds.shape), np.full(len(bounds), -np.inf, np.float32)
    order = np.argpartition(-bounds, count, axis=1)
    return order[:, :count], np.take_along_axis(bounds, order[:, count : count + 1], 1)[:, 0]


def neighbour_products(tokens: NDArray[np.float32]) -> tuple[Floats, Floats, Floats, Floats]:
    """Compute the inner products of neighbouring tokens.

    Args:
        tokens: Token descriptors, float32 [h, w, C]. The last row and column are repeated beyond the edge.

    Returns:
        Four arrays, float64 [h, w]. The first three are the inner products of each token with itself, with its right
        neighbour, and with the token below. The fourth is the sum of the inner products along the two diagonals of the
        cell to the lower right of the token.
    """
    h, w, _ = tokens.shape
    next_column = np.minimum(np.arange(w) + 1, w - 1)
    squares, right, below, diagonals = np.empty((4, h, w))
    for y in range(h):  # row by row, because two rows fit into the processor's cache
        row, next_row = tokens[y], tokens[min(y + 1, h - 1)]
        row_right, next_row_right = row[next_column], next_row[next_column]
        squares[y], right[y], below[y] = _dot(row, row), _dot(row, row_right), _dot(row, next_row)
        diagonals[y] = _dot(row, next_row_right) + _dot(row_right, next_row)
    return squares, right, below, diagonals


def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Return the inner products of the rows of two arrays [n, C], float64 [n]."""
    chunks = [slice(start, start + FLOAT32_TERMS) for start in range(0, one.shape[1], FLOAT32_TERMS)]
    return np.sum([np.vecdot(one[:, chunk], other[:, chunk]) for chunk in chunks], axis=0, dtype=np.float64)
