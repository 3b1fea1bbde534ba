"""Sources inside a window, on a CPU: the exact k nearest, found through cheaper products with bounded errors.

For each block of tokens the search narrows in three steps, each with a margin that bounds what it neglects: the
leading axes rule sources out for all tokens of the block, bfloat16 products of the others choose candidates, and the
candidates' similarities are computed in float32. Where the hardware has no fast bfloat16, the second is float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditf.propagation.blocks import BlockGrid, Frame, Neighbourhood, fast_dtype
from ditf.propagation.pruning import AXES, PruningAxes, ReducedFrame
from ditf.propagation.voting import PropagationConfig, kth_bound, vote

PAIRS_AT_ONCE = 128  # scored, so that their descriptors stay in the processor's cache
ROWS = 64  # products have a multiple of these: oneDNN prepares, and keeps, a program for each shape


@dataclass(frozen=True)
class Prepared:
    """A frame ready for the search. reduced: None where descriptors are too short to gain by it."""

    frame: Frame
    reduced: ReducedFrame | None


@dataclass(frozen=True)
class Found:
    """Sources of a block. similarity: with each of its tokens, [sources, side * side], -inf outside the window.
    frame, place: of each source, [sources]."""

    similarity: Tensor
    frame: Tensor
    place: Tensor


class WindowSearch:
    """Votes from sources inside a square window around each token.

    Args:
        grid: tokens (down, across).
        voting: with the window's radius.
        axes: of the descriptors, for the first step.
    """

    def __init__(self, grid: tuple[int, int], voting: PropagationConfig, axes: int = AXES) -> None:
        self._grid, self._voting, self._count = grid, voting, axes
        self._layout: BlockGrid | None = None
        self._axes: PruningAxes | None = None
        self._rows: Tensor | None = None

    def prepare(self, descriptors: Tensor) -> Prepared:
        """Lay out a frame's descriptors, [n, C]; the first frame's centre and axes are those of all."""
        if self._layout is None:
            self._layout = BlockGrid(self._grid, self._voting.radius, descriptors.device)
            self._centre = torch.nn.functional.normalize(descriptors, dim=1).mean(0)
            self._square = float(self._centre @ self._centre)
            self._dtype = fast_dtype(descriptors.device)
        frame = Frame.of(descriptors, self._centre, self._layout, self._dtype)
        if descriptors.shape[1] <= 2 * self._count:
            return Prepared(frame, None)
        if self._axes is None:
            self._axes = PruningAxes(frame, self._layout, self._count)
        return Prepared(frame, self._axes.apply(frame))

    def labels(self, target: Prepared, context: list[tuple[Prepared, Tensor]]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame, from (prepared, labels) of each frame of context."""
        assert self._layout is not None
        frames, labels = [frame for frame, _ in context], torch.stack([known for _, known in context])
        rounding = self._rounding(target.frame, [f.frame for f in frames])
        result = torch.empty(labels.shape[1:], device=labels.device)
        for row in range(self._layout.count[0]):
            for column in range(self._layout.count[1]):
                block = (row, column)
                found = self._search(target, frames, block, rounding)
                token, source = self._candidates(found.similarity, 2 * rounding)
                frame, place = found.frame[source], found.place[source]
                exact = self._score(target.frame, [f.frame for f in frames], block, token, frame, place)
                known = labels[frame, self._layout.token.flatten()[place]]
                own = self._layout.token[block]
                votes = vote(token, exact, known, len(own), self._voting)
                result[own[own >= 0]] = votes[own >= 0]
        return result

    def _rounding(self, target: Frame, frames: list[Frame]) -> float:
        """How far a coarse similarity may be from the true one."""
        length, error = max(f.length for f in frames), max(f.error for f in frames)
        inputs = target.error * length + target.length * error + target.error * error
        output = torch.finfo(self._dtype).eps / 2 * (target.length * length + inputs)
        return inputs + output + 1e-5  # the last for sums in float32

    def _search(self, target: Prepared, frames: list[Prepared], block: tuple[int, int], rounding: float) -> Found:
        """The sources near a block, but for those that the leading axes rule out for all its tokens."""
        assert self._layout is not None
        near, k = self._layout.near(*block), self._voting.topk
        shape = (len(frames), *near.penalty.shape)
        if target.reduced is None:
            return self._coarse(target, frames, block, near, torch.ones(shape[:3], dtype=torch.bool))
        own = target.reduced.leading[block].T
        products = own.new_empty(shape)
        for frame, strips in zip(frames, products, strict=True):
            assert frame.reduced is not None
            for strip, source in zip(strips, frame.reduced.leading[near.rows, near.columns], strict=True):
                torch.mm(source.flatten(0, 1), own, out=strip)
        centre_product = torch.stack([f.frame.centre_product[near.places] for f in frames])[..., None]
        estimate = products.float().add_(centre_product).add_(near.penalty)
        # What looks best sets the bar: its similarities are computed, and their k-th is at most the true k-th.
        best = (estimate >= kth_bound(estimate.flatten(0, 2), k)).any(3)
        found = self._coarse(target, frames, block, near, best)
        rest = target.reduced.rest.reshape(self._layout.token.shape)[block]
        rest = rest * max(float(f.reduced.rest.max()) for f in frames if f.reduced)
        lengths = target.frame.length * max(f.frame.length for f in frames)
        margin = rest + 2 * torch.finfo(self._dtype).eps * lengths + 2 * rounding
        possible = (estimate >= kth_bound(found.similarity, k) - margin).any(3)
        more = self._coarse(target, frames, block, near, possible & ~best)
        parts = ((found.similarity, more.similarity), (found.frame, more.frame), (found.place, more.place))
        return Found(*(torch.cat(part) for part in parts))

    def _coarse(
        self, target: Prepared, frames: list[Prepared], block: tuple[int, int], near: Neighbourhood, chosen: Tensor
    ) -> Found:
        """Coarse similarities, but for a constant per token, of chosen sources [frames, rows of blocks, sources]."""
        own, places, penalty = target.frame.coarse[block].T, near.places.flatten(), near.penalty.flatten(0, 1)
        if self._rows is None or len(self._rows) < len(places):
            self._rows = own.new_empty(_padded(len(places)), len(own))
        which = chosen.flatten(1).nonzero()
        parts = []
        for prepared, source in zip(frames, which[:, 1].split(chosen.sum((1, 2)).tolist()), strict=True):
            place, frame = places[source], prepared.frame
            torch.index_select(frame.coarse.flatten(0, 2), 0, place, out=self._rows[: len(place)])
            product = (self._rows[: _padded(len(place))] @ own)[: len(place)].float()
            parts.append(product.add_(frame.centre_product[place][:, None]).add_(penalty[source]))
        return Found(torch.cat(parts), which[:, 0], places[which[:, 1]])

    def _candidates(self, similarity: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """(token, source) of all that may be among the k nearest of their token, sorted by token."""
        least = kth_bound(similarity, self._voting.topk) - margin
        source, token = (similarity >= least.clamp(min=torch.finfo(torch.float32).min)).nonzero(as_tuple=True)
        order = token.argsort(stable=True)
        return token[order], source[order]

    def _score(
        self, target: Frame, frames: list[Frame], block: tuple[int, int], token: Tensor, frame: Tensor, place: Tensor
    ) -> Tensor:
        """Similarities in float32 of a block's tokens with the sources at `place` of the frames number `frame`."""
        assert self._layout is not None
        tokens = self._layout.side**2
        first = (block[0] * self._layout.count[1] + block[1]) * tokens
        own = target.rows(torch.arange(first, first + tokens, device=token.device))
        result = target.centre_product[first + token] - self._square
        for number, sources in enumerate(frames):
            chosen = (frame == number).nonzero().squeeze(1)
            for part in chosen.split(PAIRS_AT_ONCE):
                result[part] += torch.linalg.vecdot(own.index_select(0, token[part]), sources.rows(place[part]))
                result[part] += sources.centre_product[place[part]]
        return result


def _padded(rows: int) -> int:
    return -(-rows // ROWS) * ROWS
