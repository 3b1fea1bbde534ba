"""Label propagation: the first frame's mask carried through a video by nearest neighbours of descriptors.

Method: the video-segmentation protocol of DINO (Caron et al., arXiv 2104.14294), with the settings of DiTF.

Tokens are laid out in square blocks as wide as the window's radius, so that a block's sources are the 3x3 blocks
around it: time and memory grow linearly with the tokens. Candidates are found in bfloat16, where the hardware
multiplies that faster, with a margin that bounds its rounding; their similarities are then computed in float32.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.bilinear import Axis
from pipeline.images import TOKEN

LEAST_BLOCK = 8  # smaller blocks would leave the matrix products too small to be fast
GROUP = 16  # similarities whose maximum stands for them in the search for the k greatest
PAIRS_AT_ONCE = 8192


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
    """One-hot labels [objects + 1, h, w] of an index mask [height, width], resized by nearest neighbour."""
    h, w = grid
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
    soft = torch.from_numpy(np.ascontiguousarray(labels.reshape(len(labels), -1).T)).to(device)
    search: _Window | _Everywhere
    if settings.size_mask_neighborhood:
        search = _Window((labels.shape[1], labels.shape[2]), settings)
    else:
        search = _Everywhere(settings)
    first = search.frame(_unit(next(frames), device), soft)
    recent = deque([first][:0], maxlen=settings.n_last_frames)
    for descriptor in frames:
        unit = _unit(descriptor, device)
        frame = search.frame(unit, search.vote(unit, [first, *recent]))
        recent.append(frame)
        yield frame.labels.T.reshape(labels.shape).cpu().numpy()


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


def _unit(descriptors: NDArray[np.float32], device: str) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(descriptors).to(device), dim=1)


@dataclass(frozen=True)
class _Frame:
    """A frame of context. unit: unit descriptors [n, C]; labels: [n, objects + 1]; low: for the search."""

    unit: Tensor
    labels: Tensor
    low: "_Low | None" = None


@dataclass(frozen=True)
class _Low:
    """Descriptors less a common centre, in low precision, in blocks.

    blocks: [block rows, block columns, block * block, C]. along: their dot product with the centre, in blocks.
    length, error: the greatest length of a descriptor less the centre, and of its rounding error.
    """

    blocks: Tensor
    along: Tensor
    length: float
    error: float


class _Window:
    """Votes from sources inside a square window around each token."""

    def __init__(self, grid: tuple[int, int], settings: Settings) -> None:
        self._grid, self._settings = grid, settings
        self._radius = settings.size_mask_neighborhood
        self._side = max(LEAST_BLOCK, min(self._radius, max(grid)))
        self._reach = -(-self._radius // self._side)
        self._count = (-(-grid[0] // self._side), -(-grid[1] // self._side))
        self._places = self._blocked(torch.arange(grid[0] * grid[1])[:, None], -1).squeeze(-1)
        self._centre: Tensor | None = None

    def frame(self, unit: Tensor, labels: Tensor) -> _Frame:
        if self._centre is None:  # of the first frame: subtracting it makes the products, and their rounding, small
            self._centre = unit.mean(0)
            self._dtype = _fast_dtype(unit.device)
        return _Frame(unit, labels, self._low(unit))

    def _low(self, unit: Tensor) -> _Low:
        assert self._centre is not None
        rest = unit - self._centre
        rounded = rest.to(self._dtype)
        error = float((rest - rounded).norm(dim=1).max()) if self._dtype != torch.float32 else 0.0
        length = float(rest.norm(dim=1).max())
        along = self._blocked((unit @ self._centre)[:, None], 0).squeeze(-1)
        return _Low(self._blocked(rounded, 0), along, length, error)

    def _blocked(self, values: Tensor, fill: float) -> Tensor:
        """Rows for the tokens of the grid, [h * w, ...], in blocks: [rows, columns, side * side, ...]."""
        (h, w), (rows, columns), side = self._grid, self._count, self._side
        padded = values.new_full((rows * side, columns * side, *values.shape[1:]), fill)
        padded[:h, :w] = values.reshape(h, w, *values.shape[1:])
        blocks = padded.reshape(rows, side, columns, side, -1).transpose(1, 2)
        return blocks.reshape(rows, columns, side * side, -1)

    def vote(self, unit: Tensor, context: list[_Frame]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame with descriptors `unit`, [n, C]."""
        target = self._low(unit)
        sources, labels = torch.cat([f.unit for f in context]), torch.cat([f.labels for f in context])
        lows = [frame.low for frame in context if frame.low]
        margin = 2 * self._rounding(target, lows)
        result = torch.empty(len(unit), labels.shape[1], device=unit.device)
        for row in range(self._count[0]):
            for column in range(self._count[1]):
                place = self._places[row, column].to(unit.device)
                inside = place >= 0
                similarity, index = self._similarity(target, lows, row, column, len(unit))
                query, which = self._candidates(similarity[inside], margin)
                place = place[inside]
                exact = _dots(unit, place[query], sources, index[which])
                result[place] = _tally(query, exact, labels[index[which]], len(place), self._settings)
        return result

    def _rounding(self, target: _Low, sources: list[_Low]) -> float:
        """How far a low-precision similarity may lie from the true one."""
        length, error = max(s.length for s in sources), max(s.error for s in sources)
        inputs = target.error * length + target.length * error + target.error * error
        output = torch.finfo(self._dtype).eps / 2 * (target.length * length + inputs)
        return inputs + output + 1e-5  # the last for sums in float32

    def _similarity(
        self, target: _Low, sources: list[_Low], row: int, column: int, tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Low-precision similarities of a block's tokens to all sources near it.

        Returns:
            Similarities [side * side, m], -inf outside the window, and where the m sources stand among all
            tokens of all frames, [m].
        """
        rows = slice(max(row - self._reach, 0), row + self._reach + 1)
        columns = slice(max(column - self._reach, 0), column + self._reach + 1)
        own, near = self._places[row, column], self._places[rows, columns].flatten()
        width = self._grid[1]
        apart = (own[:, None] // width - near // width).abs().maximum((own[:, None] % width - near % width).abs())
        outside = ((apart > self._radius) | (near < 0)).to(target.blocks.device)
        block = target.blocks[row, column]
        parts, index = [], []
        for number, low in enumerate(sources):
            strips = [(block @ strip.flatten(0, 1).T).float() for strip in low.blocks[rows, columns]]
            part = torch.cat(strips, 1).add_(low.along[rows, columns].flatten())
            parts.append(part.masked_fill_(outside, -torch.inf))
            index.append(near + number * tokens)
        return torch.cat(parts, 1), torch.cat(index).to(block.device)

    def _candidates(self, similarity: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """(token, source) of all that may be among the k greatest of their row, ties included."""
        k = min(self._settings.topk, similarity.shape[1])
        padding = -similarity.shape[1] % GROUP
        groups = torch.nn.functional.pad(similarity, (0, padding), value=-torch.inf).unflatten(1, (-1, GROUP)).amax(2)
        if groups.shape[1] < k:
            groups = similarity
        # The k-th greatest group has k similarities at least as great as itself.
        least = groups.topk(k, dim=1).values[:, -1:]
        query, which = ((similarity >= least - margin) & similarity.isfinite()).nonzero(as_tuple=True)
        return query, which


class _Everywhere:
    """Votes from sources anywhere, found by FAISS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def frame(self, unit: Tensor, labels: Tensor) -> _Frame:
        return _Frame(unit, labels)

    def vote(self, unit: Tensor, context: list[_Frame]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame with descriptors `unit`, [n, C]."""
        import faiss  # here, because most runs have a window and need no second OpenMP runtime

        queries, base = unit.cpu().numpy(), torch.cat([f.unit for f in context]).cpu().numpy()
        k = min(self._settings.topk, len(base))
        wanted = min(k + 1, len(base))
        while True:
            similarity, index = faiss.knn(queries, base, wanted, metric=faiss.METRIC_INNER_PRODUCT)
            if wanted == len(base) or (similarity[:, -1] < similarity[:, k - 1]).all():
                break
            wanted = min(4 * wanted, len(base))  # a tie with the k-th may go on beyond what was asked for
        query = torch.arange(len(unit)).repeat_interleave(wanted).to(unit.device)
        labels = torch.cat([f.labels for f in context])[torch.from_numpy(index.ravel()).to(unit.device)]
        return _tally(query, torch.from_numpy(similarity.ravel()).to(unit.device), labels, len(unit), self._settings)


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32."""
    if device.type == "cuda":
        return torch.bfloat16
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if quick else torch.float32


def _dots(one: Tensor, i: Tensor, other: Tensor, j: Tensor) -> Tensor:
    """Dot products of rows i of `one` with rows j of `other`, in float32."""
    parts = [(one[a] * other[b]).sum(1) for a, b in zip(i.split(PAIRS_AT_ONCE), j.split(PAIRS_AT_ONCE), strict=True)]
    return torch.cat(parts)


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
