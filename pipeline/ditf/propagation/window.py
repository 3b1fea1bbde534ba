"""Label propagation inside a window on a CPU: the exact k nearest source tokens, found with cheaper products.

Each block of tokens is searched in three steps. Each step has a margin that bounds its error, so no neighbour is lost:

1. Products along the leading principal axes rule out most source tokens.
2. Products in bfloat16 choose candidates among the others. A CPU without fast bfloat16 uses float32.
3. The similarities of the candidates are computed in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditf.propagation.blocks import BlockGrid, Frame, Neighbourhood, fast_dtype
from ditf.propagation.pruning import AXES, PruningAxes, ReducedFrame
from ditf.propagation.voting import PropagationConfig, kth_bound, vote

PAIRS_AT_ONCE = 128  # candidates scored together, so that their descriptors fit the processor's cache
ROWS = 64  # products have a multiple of this many rows, because oneDNN compiles a kernel for each shape


@dataclass(frozen=True)
class PreparedFrame:
    """A frame that is ready for the search.

    Attributes:
        frame: The descriptors in blocks.
        reduced: The descriptors along the leading axes, or None if there are too few channels to gain from it.
    """

    frame: Frame
    reduced: ReducedFrame | None


@dataclass(frozen=True)
class SourceTokens:
    """Source tokens that are compared with the tokens of a block.

    Attributes:
        similarity: Similarity to each token of the block, [sources, side * side]; -inf outside the window.
        frame: Index of each source's frame, [sources].
        place: Place of each source in its frame, [sources].
    """

    similarity: Tensor
    frame: Tensor
    place: Tensor


class WindowSearch:
    """Search for source tokens inside a square window around each token.

    Args:
        grid: Rows and columns of tokens.
        config: How labels are propagated, with the radius of the window.
        axes: Number of principal axes of the first step.
    """

    def __init__(self, grid: tuple[int, int], config: PropagationConfig, axes: int = AXES) -> None:
        self._grid, self._config, self._count = grid, config, axes
        self._layout: BlockGrid | None = None
        self._axes: PruningAxes | None = None
        self._rows: Tensor | None = None

    def prepare(self, descriptors: Tensor) -> PreparedFrame:
        """Lay out the descriptors of a frame, [n, C]. The first frame decides the centre and the axes."""
        if self._layout is None:
            self._layout = BlockGrid(self._grid, self._config.radius, descriptors.device)
            self._centre = torch.nn.functional.normalize(descriptors, dim=1).mean(0)
            self._square = float(self._centre @ self._centre)
            self._dtype = fast_dtype(descriptors.device)
        frame = Frame.of(descriptors, self._centre, self._layout, self._dtype)
        if descriptors.shape[1] <= 2 * self._count:
            return PreparedFrame(frame, None)
        if self._axes is None:
            self._axes = PruningAxes(frame, self._layout, self._count)
        return PreparedFrame(frame, self._axes.apply(frame))

    def labels(self, target: PreparedFrame, context: list[tuple[PreparedFrame, Tensor]]) -> Tensor:
        """Return the soft labels of a frame, [n, objects + 1], from the context frames and their labels."""
        assert self._layout is not None
        frames, labels = [frame for frame, _ in context], torch.stack([known for _, known in context])
        rounding = self._rounding(target.frame, [f.frame for f in frames])
        result = torch.empty(labels.shape[1:], device=labels.device)
        for row in range(self._layout.count[0]):
            for column in range(self._layout.count[1]):
                block = (row, column)
                sources = self._search(target, frames, block, rounding)
                token, source = self._candidates(sources.similarity, 2 * rounding)
                frame, place = sources.frame[source], sources.place[source]
                exact = self._score(target.frame, [f.frame for f in frames], block, token, frame, place)
                known = labels[frame, self._layout.token.flatten()[place]]
                tokens = self._layout.token[block]
                votes = vote(token, exact, known, len(tokens), self._config)
                result[tokens[tokens >= 0]] = votes[tokens >= 0]
        return result

    def _rounding(self, target: Frame, frames: list[Frame]) -> float:
        """Return a bound of the error of coarse similarities."""
        length, error = max(f.length for f in frames), max(f.error for f in frames)
        inputs = target.error * length + target.length * error + target.error * error
        output = torch.finfo(self._dtype).eps / 2 * (target.length * length + inputs)
        return inputs + output + 1e-5  # the last for sums in float32

    def _search(
        self, target: PreparedFrame, frames: list[PreparedFrame], block: tuple[int, int], rounding: float
    ) -> SourceTokens:
        """Return the source tokens near a block, without those that the leading axes rule out for all its tokens."""
        assert self._layout is not None
        near, k = self._layout.near(*block), self._config.topk
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
        # The most promising sources are compared first. The k-th of their similarities is at most the true k-th.
        best = (estimate >= kth_bound(estimate.flatten(0, 2), k)).any(3)
        likely = self._coarse(target, frames, block, near, best)
        residual = target.reduced.residual.reshape(self._layout.token.shape)[block]
        residual = residual * max(float(f.reduced.residual.max()) for f in frames if f.reduced)
        lengths = target.frame.length * max(f.frame.length for f in frames)
        margin = residual + 2 * torch.finfo(self._dtype).eps * lengths + 2 * rounding
        possible = (estimate >= kth_bound(likely.similarity, k) - margin).any(3)
        more = self._coarse(target, frames, block, near, possible & ~best)
        parts = ((likely.similarity, more.similarity), (likely.frame, more.frame), (likely.place, more.place))
        return SourceTokens(*(torch.cat(part) for part in parts))

    def _coarse(
        self,
        target: PreparedFrame,
        frames: list[PreparedFrame],
        block: tuple[int, int],
        near: Neighbourhood,
        chosen: Tensor,
    ) -> SourceTokens:
        """Return coarse similarities, up to a constant per token, of the sources chosen in each frame."""
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
        return SourceTokens(torch.cat(parts), which[:, 0], places[which[:, 1]])

    def _candidates(self, similarity: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Return the tokens and sources of all pairs that may be among a token's k nearest, sorted by token."""
        least = kth_bound(similarity, self._config.topk) - margin
        source, token = (similarity >= least.clamp(min=torch.finfo(torch.float32).min)).nonzero(as_tuple=True)
        order = token.argsort(stable=True)
        return token[order], source[order]

    def _score(
        self, target: Frame, frames: list[Frame], block: tuple[int, int], token: Tensor, frame: Tensor, place: Tensor
    ) -> Tensor:
        """Return the similarities of pairs of tokens of a block and sources at places of frames, in float32."""
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
