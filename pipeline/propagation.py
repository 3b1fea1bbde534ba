"""Label propagation: the first frame's mask carried through a video by nearest neighbours of descriptors.

Method: the video-segmentation protocol of DINO (Caron et al., arXiv 2104.14294), with the settings of DiTF.

Tokens are laid out in square blocks as wide as the window's radius, so that a block's sources are the 3x3 blocks
around it: time and memory grow linearly with the tokens. Candidates are found in bfloat16, where the hardware
multiplies that faster, with a margin that bounds its rounding; their similarities are then computed in float32.
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
PAIRS_AT_ONCE = 256  # so that their descriptors stay in the processor's cache


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
    took, [places, C], float16 for its longer mantissa, or None. along: dot products of the descriptors with
    the centre, [places]. length, error: the greatest length of high + low, and of low.
    """

    high: Tensor
    low: Tensor | None
    along: Tensor
    length: float
    error: float

    def rows(self, place: Tensor) -> Tensor:
        """The descriptors less the centre at flat places, [n, C], float32."""
        high = self.high.flatten(0, 2)[place].float()
        return high if self.low is None else high.add_(self.low[place])


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

    def prepare(self, descriptors: Tensor) -> _Blocks:
        """Lay out a frame's descriptors, [n, C]."""
        shape, device = (self._token.numel(), descriptors.shape[1]), descriptors.device
        if self._centre is None:  # of the first frame: subtracting it makes products, and their rounding, small
            self._centre = torch.nn.functional.normalize(descriptors, dim=1).mean(0)
            self._square = float(self._centre @ self._centre)
            self._dtype = _fast_dtype(device)
            self._token, self._place = self._token.to(device), self._place.to(device)
            # Work space: what a frame needs most memory for, taken once.
            self._rest = descriptors.new_zeros(shape)
        scale = descriptors.new_zeros(shape[0])
        scale[self._place] = 1 / torch.linalg.vector_norm(descriptors, dim=1).clamp(min=1e-12)
        rest = self._rest.index_copy_(0, self._place, descriptors)
        rest *= scale[:, None]
        along = rest @ self._centre
        rest -= self._centre
        rest[scale == 0] = 0
        length = float(torch.linalg.vector_norm(rest, dim=1).max())
        if self._dtype == torch.float32:
            return _Blocks(rest.clone().unflatten(0, self._token.shape), None, along, length, 0.0)
        high = rest.to(self._dtype)
        rest -= high
        error, low = float(torch.linalg.vector_norm(rest, dim=1).max()), rest.to(torch.float16)
        return _Blocks(high.unflatten(0, self._token.shape), low, along, length, error)

    def vote(self, target: _Blocks, context: list[tuple[_Blocks, Tensor]]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame, from (descriptors, labels) of each frame of context."""
        frames, labels = [frame for frame, _ in context], torch.stack([known for _, known in context])
        margin = 2 * self._rounding(target, frames)
        result = torch.empty(labels.shape[1:], device=labels.device)
        for row in range(self._count[0]):
            for column in range(self._count[1]):
                similarity, near = self._similarity(target, frames, row, column)
                query, frame, source = self._candidates(similarity, margin)
                exact = self._exact(target, frames, (row, column), query, frame, near[source])
                known = labels[frame, self._token.flatten()[near[source]]]
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

    def _similarity(self, target: _Blocks, frames: list[_Blocks], row: int, column: int) -> tuple[Tensor, Tensor]:
        """Low-precision similarities of a block's tokens to all sources near it, but for a constant a token.

        Returns:
            Similarities [frames, block rows, sources, side * side], -inf outside the window, and the flat place
            of each source of a frame, [block rows * sources].
        """
        rows = range(max(row - self._reach, 0), min(row + self._reach + 1, self._count[0]))
        columns = slice(max(column - self._reach, 0), column + self._reach + 1)
        own, near = self._token[row, column], self._token[rows.start : rows.stop, columns].flatten(1)[:, :, None]
        width = self._grid[1]
        apart = (own // width - near // width).abs().maximum((own % width - near % width).abs())
        outside = (apart > self._radius) | (near < 0)
        penalty = torch.zeros(outside.shape, device=own.device).masked_fill_(outside, -torch.inf)
        places = torch.arange(self._token.numel(), device=own.device).reshape(self._token.shape)
        places = places[rows.start : rows.stop, columns].flatten(1)
        block = target.high[row, column].T
        products = block.new_empty(len(frames), *outside.shape)
        for number, frame in enumerate(frames):
            for strip, source in enumerate(rows):
                torch.mm(frame.high[source, columns].flatten(0, 1), block, out=products[number, strip])
        similarity = products.float().add_(torch.stack([f.along[places] for f in frames])[..., None])
        return similarity.add_(penalty), places.flatten()

    def _candidates(self, similarity: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
        """(token, frame, source) of all that may be among the k greatest of their token, sorted by token."""
        frames, strips, sources, tokens = similarity.shape
        k = min(self._settings.topk, frames * strips * sources)
        group = GROUP if sources % GROUP == 0 and frames * strips * sources >= GROUP * k else 1
        greatest = similarity.unflatten(2, (-1, group)).amax(3) if group > 1 else similarity
        # The k-th greatest group has k similarities at least as great as itself.
        least = greatest.reshape(-1, tokens).topk(k, dim=0).values[-1]
        threshold = (least - margin).clamp(min=torch.finfo(torch.float32).min)
        frame, strip, source, token = (similarity >= threshold).nonzero(as_tuple=True)
        order = token.argsort(stable=True)
        return token[order], frame[order], (strip * sources + source)[order]

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
                result[part] += torch.linalg.vecdot(own[query[part]], sources.rows(place))
                result[part] += sources.along[place]
        return result


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
