"""Label propagation: the first frame's mask carried through a video by nearest neighbours of descriptors.

Method: the video-segmentation protocol of DINO (Caron et al., arXiv 2104.14294), with the settings of DiTF.

Tokens are laid out in square blocks as wide as the window's radius, so that a block's sources are the 3x3 blocks
around it: time and memory grow linearly with the tokens. A block's search narrows in three steps, each with a
margin that bounds what it neglects: the leading principal axes of the descriptors rule sources out (by the
inequality of Cauchy and Schwarz on the rest), bfloat16 products of what is left choose candidates, and the
candidates' similarities are computed in float32. Where the hardware has no fast bfloat16, the second is float32.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.bilinear import Axis
from pipeline.images import TOKEN
from pipeline.masks import VOID

LEAST_BLOCK = 8  # smaller blocks would leave the matrix products too small to be fast
GROUP = 16  # similarities whose maximum stands for them in the search for the k greatest
LEADING = 256  # principal axes of the first step
SAMPLE = 768  # tokens of the first frame that these are found from
TOKENS_AT_ONCE = 256  # this and the next: so that their descriptors stay in the processor's cache
PAIRS_AT_ONCE = 128
ROWS = 64  # products have a multiple of these: for each shape oneDNN prepares, and keeps, a program


@dataclass(frozen=True)
class Settings:
    """How labels travel.

    topk: sources kept for each token. temperature: of the weights exp(similarity / temperature).
    n_last_frames: frames of context besides the first. size_mask_neighborhood: a source lies within
    +- this many tokens; 0 is no limit.
    """

    topk: int = 5
    temperature: float = 0.1
    n_last_frames: int = 7
    size_mask_neighborhood: int = 12


def first_labels(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """One-hot labels [objects + 1, h, w] of an index mask [height, width], resized by nearest neighbour.

    Void, 255, is taken for background.
    """
    h, w = grid
    mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
    small = np.asarray(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST))
    return (small == np.arange(int(mask.max()) + 1)[:, None, None]).astype(np.float32)


def propagate(
    descriptors: Iterable[NDArray[np.float32]],
    labels: NDArray[np.float32],
    settings: Settings,
    device: str = "cpu",
) -> Iterator[NDArray[np.float32]]:
    """Carry `labels` from the first frame through the others.

    Args:
        descriptors: one array [h * w, C] a frame, the first frame's first; read one at a time.
        labels: the first frame's labels, [objects + 1, h, w].
        settings: of the propagation.
        device: a torch device.

    Yields:
        Soft labels [objects + 1, h, w] of each frame but the first.
    """
    frames = iter(descriptors)
    grid = (labels.shape[1], labels.shape[2])
    search: Any = _Window(grid, settings) if settings.size_mask_neighborhood else _Everywhere(settings)
    known = torch.from_numpy(np.ascontiguousarray(labels.reshape(len(labels), -1).T)).to(device)
    first = (search.prepare(torch.from_numpy(next(frames)).to(device)), known)
    recent: deque[tuple[Any, Tensor]] = deque(maxlen=settings.n_last_frames)
    for descriptor in frames:
        frame = search.prepare(torch.from_numpy(descriptor).to(device))
        soft = search.vote(frame, [first, *recent])
        recent.append((frame, soft))
        yield soft.T.reshape(labels.shape).cpu().numpy()


def hard_mask(soft: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The index mask [height, width] of soft labels [objects + 1, h, w]; `size` is (width, height)."""
    _, h, w = soft.shape
    y, x = Axis.of(h, h * TOKEN), Axis.of(w, w * TOKEN)
    a, b = y.weight.astype(np.float32)[:, None], x.weight.astype(np.float32)
    rows = soft[:, y.lower] * (1 - a) + soft[:, y.upper] * a
    large = rows[:, :, x.lower] * (1 - b) + rows[:, :, x.upper] * b
    for channel in large:
        low, high = channel.min(), channel.max()
        if high > low:
            channel -= low
            channel /= high - low
        elif high > 0:
            channel[:] = 1
    index = large.argmax(0).astype(np.uint8)
    return np.asarray(Image.fromarray(index).resize(size, Image.Resampling.NEAREST))


class _Everywhere:
    """Votes from sources anywhere, found by FAISS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def prepare(self, descriptors: Tensor) -> Tensor:
        return torch.nn.functional.normalize(descriptors, dim=1)

    def vote(self, target: Tensor, context: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame, from (descriptors, labels) of each frame of context."""
        import faiss  # here, because most runs have a window and need no second OpenMP runtime

        queries, base = target.cpu().numpy(), torch.cat([frame for frame, _ in context]).cpu().numpy()
        k = min(self._settings.topk, len(base))
        wanted = min(k + 1, len(base))
        while True:
            similarity, index = faiss.knn(queries, base, wanted, metric=faiss.METRIC_INNER_PRODUCT)
            if wanted == len(base) or (similarity[:, -1] < similarity[:, k - 1]).all():
                break
            wanted = min(4 * wanted, len(base))  # a tie with the k-th may go on beyond what was asked for
        query = torch.arange(len(target)).repeat_interleave(wanted).to(target.device)
        labels = torch.cat([known for _, known in context])[torch.from_numpy(index.ravel()).to(target.device)]
        found = torch.from_numpy(similarity.ravel()).to(target.device)
        return _tally(query, found, labels, len(target), self._settings)


@dataclass(frozen=True)
class _Blocks:
    """A frame's unit descriptors as centre + high + low, its tokens in blocks.

    high: for the search, [block rows, block columns, block * block, C], bfloat16 or float32. low: what rounding
    took, [places, C], float16 for its longer mantissa, or None. lead: high along the leading axes, likewise in
    blocks, [.., L], or None. tail: at most the length of what lead lacks, [places]. along: dot products of the
    descriptors with the centre, [places]. length, error: the greatest length of high + low, and of low.
    """

    high: Tensor
    low: Tensor | None
    lead: Tensor | None
    tail: Tensor
    along: Tensor
    length: float
    error: float

    def rows(self, place: Tensor) -> Tensor:
        """The descriptors less the centre at flat places, [n, C], float32."""
        high = self.high.flatten(0, 2).index_select(0, place).float()  # much faster than [place]
        return high if self.low is None else high.add_(self.low.index_select(0, place).float())


@dataclass(frozen=True)
class _Near:
    """The sources in reach of a block: a strip of blocks is a row of them.

    places: flat places, [strips, sources]. penalty: 0 inside a token's window and -inf outside,
    [strips, sources, side * side].
    """

    rows: slice
    columns: slice
    places: Tensor
    penalty: Tensor


class _Window:
    """Votes from sources inside a square window around each token."""

    def __init__(self, grid: tuple[int, int], settings: Settings) -> None:
        self._grid, self._settings = grid, settings
        self._radius = settings.size_mask_neighborhood
        self._side = max(LEAST_BLOCK, min(self._radius, max(grid)))
        self._reach = -(-self._radius // self._side)
        self._count = (-(-grid[0] // self._side), -(-grid[1] // self._side))
        rows, columns = self._count
        y, x = torch.meshgrid(torch.arange(rows * self._side), torch.arange(columns * self._side), indexing="ij")
        token = torch.where((y < grid[0]) & (x < grid[1]), y * grid[1] + x, -1)
        # The token at each place of the blocks, -1 where there is none; and each token's place.
        self._token = token.reshape(rows, self._side, columns, self._side).transpose(1, 2).flatten(2)
        self._place = self._token.flatten().argsort(stable=True)[-grid[0] * grid[1] :]
        self._centre: Tensor | None = None
        self._axes: Tensor | None = None
        self._rows: Tensor | None = None

    def prepare(self, descriptors: Tensor) -> _Blocks:
        """Lay out a frame's descriptors, [n, C]."""
        shape, device = (self._token.numel(), descriptors.shape[1]), descriptors.device
        if self._centre is None:  # of the first frame: subtracting it makes products, and their rounding, small
            self._centre = torch.nn.functional.normalize(descriptors, dim=1).mean(0)
            self._square = float(self._centre @ self._centre)
            self._dtype = _fast_dtype(device)
            self._token, self._place = self._token.to(device), self._place.to(device)
        high = descriptors.new_zeros(shape, dtype=self._dtype)
        low = descriptors.new_zeros(shape, dtype=torch.float16) if self._dtype != torch.float32 else None
        along, lengths, errors = descriptors.new_zeros(3, shape[0])
        for part, place in zip(descriptors.split(TOKENS_AT_ONCE), self._place.split(TOKENS_AT_ONCE), strict=True):
            rest = torch.nn.functional.normalize(part, dim=1)
            along[place] = rest @ self._centre
            rest -= self._centre
            lengths[place] = torch.linalg.vector_norm(rest, dim=1)
            high[place] = rounded = rest.to(self._dtype)
            if low is not None:
                rest -= rounded
                errors[place] = torch.linalg.vector_norm(rest, dim=1)
                low[place] = rest.to(torch.float16)
        error = float(errors.max())
        lead, tail = self._leading(high, lengths + error)
        return _Blocks(high.unflatten(0, self._token.shape), low, lead, tail, along, float(lengths.max()), error)

    def _leading(self, high: Tensor, lengths: Tensor) -> tuple[Tensor | None, Tensor]:
        """`lead` and `tail` of `_Blocks`, of `high` no longer than `lengths`; the axes are the first frame's."""
        if high.shape[1] <= 2 * LEADING:
            return None, high.new_zeros(len(high))
        if self._axes is None:
            sample = high[self._place[:: -(-len(self._place) // SAMPLE)]].float()
            _, vectors = torch.linalg.eigh(sample @ sample.T)
            axes = torch.linalg.qr(sample.T @ vectors[:, -LEADING:]).Q
            # After rounding no longer orthonormal; that none lengthens a vector is all that the bound needs.
            longest = 1 + LEADING**0.5 * torch.finfo(self._dtype).eps / 4 + 1e-5
            self._axes = (axes / longest).to(self._dtype)
        lead = high @ self._axes
        known = (1 - torch.finfo(self._dtype).eps) * torch.linalg.vector_norm(lead, dim=1, dtype=torch.float32)
        return lead.unflatten(0, self._token.shape), (lengths.square() - known.square()).clamp(min=0).sqrt()

    def vote(self, target: _Blocks, context: list[tuple[_Blocks, Tensor]]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame, from (descriptors, labels) of each frame of context."""
        frames, labels = [frame for frame, _ in context], torch.stack([known for _, known in context])
        rounding = self._rounding(target, frames)
        result = torch.empty(labels.shape[1:], device=labels.device)
        for row in range(self._count[0]):
            for column in range(self._count[1]):
                similarity, frame, place = self._search(target, frames, (row, column), rounding)
                query, found = self._greatest(similarity, 2 * rounding)
                frame, place = frame[found], place[found]
                exact = self._exact(target, frames, (row, column), query, frame, place)
                known = labels[frame, self._token.flatten()[place]]
                token = self._token[row, column]
                votes = _tally(query, exact, known, len(token), self._settings)
                result[token[token >= 0]] = votes[token >= 0]
        return result

    def _rounding(self, target: _Blocks, frames: list[_Blocks]) -> float:
        """How far a low-precision similarity may lie from the true one."""
        length, error = max(f.length for f in frames), max(f.error for f in frames)
        inputs = target.error * length + target.length * error + target.error * error
        output = torch.finfo(self._dtype).eps / 2 * (target.length * length + inputs)
        return inputs + output + 1e-5  # the last for sums in float32

    def _near(self, row: int, column: int) -> _Near:
        """The blocks in reach of one."""
        rows = slice(max(row - self._reach, 0), row + self._reach + 1)
        columns = slice(max(column - self._reach, 0), column + self._reach + 1)
        own, near = self._token[row, column], self._token[rows, columns].flatten(1)[:, :, None]
        width = self._grid[1]
        apart = (own // width - near // width).abs().maximum((own % width - near % width).abs())
        outside = (apart > self._radius) | (near < 0)
        penalty = torch.zeros(outside.shape, device=own.device).masked_fill_(outside, -torch.inf)
        places = torch.arange(self._token.numel(), device=own.device).reshape(self._token.shape)
        return _Near(rows, columns, places[rows, columns].flatten(1), penalty)

    def _search(
        self, target: _Blocks, frames: list[_Blocks], block: tuple[int, int], rounding: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_similarity` of all sources near a block but those that the leading axes rule out for all its tokens."""
        near = self._near(*block)
        shape = (len(frames), *near.penalty.shape)
        if target.lead is None:
            every = torch.ones(shape[:3], dtype=torch.bool, device=near.penalty.device)
            return self._similarity(target, frames, block, near, every)
        own = target.lead[block].T
        products = own.new_empty(shape)
        for frame, strips in zip(frames, products, strict=True):
            assert frame.lead is not None
            for strip, source in zip(strips, frame.lead[near.rows, near.columns], strict=True):
                torch.mm(source.flatten(0, 1), own, out=strip)
        along = torch.stack([frame.along[near.places] for frame in frames])[..., None]
        estimate = products.float().add_(along).add_(near.penalty)
        # What looks best sets the bar: its similarities are computed, and their k-th is at most the true k-th.
        best = (estimate >= _kth(estimate.flatten(0, 2), self._settings.topk)).any(3)
        found = self._similarity(target, frames, block, near, best)
        tail = target.tail.reshape(self._token.shape)[block] * max(float(frame.tail.max()) for frame in frames)
        lengths = target.length * max(frame.length for frame in frames)
        margin = tail + 2 * torch.finfo(self._dtype).eps * lengths + 2 * rounding
        possible = (estimate >= _kth(found[0], self._settings.topk) - margin).any(3)
        more = self._similarity(target, frames, block, near, possible & ~best)
        similarity, frame_of, place = (torch.cat(parts) for parts in zip(found, more, strict=True))
        return similarity, frame_of, place

    def _similarity(
        self, target: _Blocks, frames: list[_Blocks], block: tuple[int, int], near: _Near, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Low-precision similarities of a block's tokens to chosen sources near it, but for a constant a token.

        Returns:
            Similarities [sources, side * side], -inf outside the window; and each source's frame and flat place.
        """
        own, places, penalty = target.high[block].T, near.places.flatten(), near.penalty.flatten(0, 1)
        if self._rows is None or len(self._rows) < len(places):
            self._rows = own.new_empty(_padded(len(places)), len(own))
        which = chosen.flatten(1).nonzero()
        parts = []
        for frame, source in zip(frames, which[:, 1].split(chosen.sum((1, 2)).tolist()), strict=True):
            place = places[source]
            torch.index_select(frame.high.flatten(0, 2), 0, place, out=self._rows[: len(place)])
            product = (self._rows[: _padded(len(place))] @ own)[: len(place)].float()
            parts.append(product.add_(frame.along[place][:, None]).add_(penalty[source]))
        return torch.cat(parts), which[:, 0], places[which[:, 1]]

    def _greatest(self, similarity: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """(token, source) of all that may be among the k greatest of their token, sorted by token."""
        least = _kth(similarity, self._settings.topk) - margin
        source, token = (similarity >= least.clamp(min=torch.finfo(torch.float32).min)).nonzero(as_tuple=True)
        order = token.argsort(stable=True)
        return token[order], source[order]

    def _exact(
        self,
        target: _Blocks,
        frames: list[_Blocks],
        block: tuple[int, int],
        query: Tensor,
        frame: Tensor,
        source: Tensor,
    ) -> Tensor:
        """Similarities in float32 of a block's tokens number `query` to places `source` of frames number `frame`."""
        first = (block[0] * self._count[1] + block[1]) * self._side**2
        own = target.rows(torch.arange(first, first + self._side**2, device=query.device))
        result = target.along[first + query] - self._square
        for number, sources in enumerate(frames):
            chosen = (frame == number).nonzero().squeeze(1)
            for part in chosen.split(PAIRS_AT_ONCE):
                place = source[part]
                result[part] += torch.linalg.vecdot(own.index_select(0, query[part]), sources.rows(place))
                result[part] += sources.along[place]
        return result


def _padded(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def _kth(similarity: Tensor, k: int) -> Tensor:
    """A value a token that is at most its k-th greatest similarity, [tokens], of similarities [sources, tokens]."""
    sources = len(similarity)
    if sources >= GROUP * k:  # the k-th greatest group has k similarities at least as great as itself
        whole = sources - sources % GROUP
        similarity = similarity[:whole].unflatten(0, (-1, GROUP)).amax(1)
    return similarity.topk(min(k, len(similarity)), dim=0).values[-1]


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32."""
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cuda" or quick else torch.float32


def _tally(query: Tensor, similarity: Tensor, labels: Tensor, count: int, settings: Settings) -> Tensor:
    """Soft labels [count, objects + 1] from candidates, sorted by query: similarities [m], labels [m, objects + 1]."""
    number = torch.bincount(query, minlength=count)
    column = torch.arange(len(query), device=query.device) - (number.cumsum(0) - number)[query]
    table = similarity.new_full((count, int(number.max())), -torch.inf)
    table[query, column] = similarity
    greatest = table.topk(min(settings.topk, table.shape[1]), dim=1).values
    # Rows with fewer candidates than k keep them all.
    least = greatest.masked_fill(greatest.isinf(), torch.inf).amin(1)
    # Subtracting the maximum changes no weight after normalisation, and keeps exp finite.
    weight = ((similarity - greatest[query, 0]) / settings.temperature).exp()
    weight = weight * (similarity >= least[query])
    total = similarity.new_zeros(count).index_add_(0, query, weight)
    votes = labels.new_zeros(count, labels.shape[1]).index_add_(0, query, labels * weight[:, None])
    return votes / total[:, None]
