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

PAIRS_AT_ONCE = 128  # candidates scored together, so that their descriptors fit into the processor's cache
ROWS = 64  # matrix products have a multiple of this number of rows, because oneDNN compiles a kernel for each shape


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
    """Search for source tokens inside a square window around each token, with fewer products than `BandedSearch`.

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
        """Lay out the descriptors of a frame. The first frame determines the centre and the axes.

        Args:
            descriptors: Descriptors, float32 [n, C].
        """
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
        """Compute the soft labels of a frame.

        Args:
            target: The frame.
            context: Each context frame with its soft labels, [n, objects + 1].

        Returns:
            Soft labels, [n, objects + 1].
        """
        assert self._layout is not None
        frames, labels = [frame for frame, _ in context], torch.stack([soft for _, soft in context])
        rounding = self._rounding(target.frame, [f.frame for f in frames])
        result = torch.empty(labels.shape[1:], device=labels.device)
        for row in range(self._layout.count[0]):
            for column in range(self._layout.count[1]):
                block = (row, column)
                sources = self._search(target, frames, block, rounding)
                token, source = self._candidates(sources.similarity, 2 * rounding)
                frame, place = sources.frame[source], sources.place[source]
                exact = self._score(target.frame, [f.frame for f in frames], block, token, frame, place)
                source_labels = labels[frame, self._layout.token.flatten()[place]]
                tokens = self._layout.token[block]
                votes = vote(token, exact, source_labels, len(tokens), self._config)
                result[tokens[tokens >= 0]] = votes[tokens >= 0]
        return result

    def _rounding(self, target: Frame, frames: list[Frame]) -> float:
        """Return an upper bound of the error of coarse similarities."""
        length, error = max(f.length for f in frames), max(f.error for f in frames)
        inputs = target.error * length + target.length * error + target.error * error
        output = torch.finfo(self._dtype).eps / 2 * (target.length * length + inputs)
        return inputs + output + 1e-5  # the last term bounds the error of sums in float32

    def _search(
        self, target: PreparedFrame, frames: list[PreparedFrame], block: tuple[int, int], rounding: float
    ) -> SourceTokens:
        """Compute coarse similarities, except of sources that the leading axes rule out for all tokens of a block.

        Args:
            target: The frame of the block.
            frames: Context frames.
            block: Row and column of the block.
            rounding: Upper bound of the error of coarse similarities.
        """
        assert self._layout is not None
        near, k = self._layout.near(*block), self._config.topk
        shape = (len(frames), *near.penalty.shape)
        if target.reduced is None:
            return self._coarse(target, frames, block, near, torch.ones(shape[:3], dtype=torch.bool))
        leading = target.reduced.leading[block].T
        products = leading.new_empty(shape)
        for frame, strips in zip(frames, products, strict=True):
            assert frame.reduced is not None
            for strip, source in zip(strips, frame.reduced.leading[near.rows, near.columns], strict=True):
                torch.mm(source.flatten(0, 1), leading, out=strip)
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
        return SourceTokens(
            torch.cat((likely.similarity, more.similarity)),
            torch.cat((likely.frame, more.frame)),
            torch.cat((likely.place, more.place)),
        )

    def _coarse(
        self,
        target: PreparedFrame,
        frames: list[PreparedFrame],
        block: tuple[int, int],
        near: Neighbourhood,
        chosen: Tensor,
    ) -> SourceTokens:
        """Compute coarse similarities, up to a constant per token.

        Args:
            target: The frame of the block.
            frames: Context frames.
            block: Row and column of the block.
            near: Sources of the block.
            chosen: Whether to compare each source of each frame, bool [frames, rows of blocks, sources].
        """
        tokens, places, penalty = target.frame.coarse[block].T, near.places.flatten(), near.penalty.flatten(0, 1)
        if self._rows is None or len(self._rows) < len(places):
            # Not uninitialized: a CPU's bfloat16 product lets NaN in the padding reach other rows.
            self._rows = tokens.new_zeros(_padded(len(places)), len(tokens))
        frame_and_source = chosen.flatten(1).nonzero()
        similarities = []
        for prepared, source in zip(frames, frame_and_source[:, 1].split(chosen.sum((1, 2)).tolist()), strict=True):
            place, frame = places[source], prepared.frame
            torch.index_select(frame.coarse.flatten(0, 2), 0, place, out=self._rows[: len(place)])
            product = (self._rows[: _padded(len(place))] @ tokens)[: len(place)].float()
            similarities.append(product.add_(frame.centre_product[place][:, None]).add_(penalty[source]))
        return SourceTokens(torch.cat(similarities), frame_and_source[:, 0], places[frame_and_source[:, 1]])

    def _candidates(self, similarity: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Find the sources that may be among the k nearest of a token.

        Args:
            similarity: Coarse similarities, [sources, tokens].
            margin: Upper bound of the error of the difference of two similarities.

        Returns:
            Tokens and sources of all candidate pairs, sorted by token.
        """
        least = kth_bound(similarity, self._config.topk) - margin
        source, token = (similarity >= least.clamp(min=torch.finfo(torch.float32).min)).nonzero(as_tuple=True)
        order = token.argsort(stable=True)
        return token[order], source[order]

    def _score(
        self, target: Frame, frames: list[Frame], block: tuple[int, int], token: Tensor, frame: Tensor, place: Tensor
    ) -> Tensor:
        """Compute the similarities of candidate pairs in float32.

        Args:
            target: The frame of the block.
            frames: Context frames.
            block: Row and column of the block.
            token: Token of each pair, as its place in the block, [m].
            frame: Frame of each source, [m].
            place: Place of each source in its frame, [m].

        Returns:
            Similarities, [m].
        """
        assert self._layout is not None
        tokens = self._layout.side**2
        first = (block[0] * self._layout.count[1] + block[1]) * tokens
        descriptors = target.rows(torch.arange(first, first + tokens, device=token.device))
        result = target.centre_product[first + token] - self._square
        for number, sources in enumerate(frames):
            chosen = (frame == number).nonzero().squeeze(1)
            for pairs in chosen.split(PAIRS_AT_ONCE):
                block_tokens, source_tokens = descriptors.index_select(0, token[pairs]), sources.rows(place[pairs])
                result[pairs] += torch.linalg.vecdot(block_tokens, source_tokens)
                result[pairs] += sources.centre_product[place[pairs]]
        return result


def _padded(rows: int) -> int:
    """Round up to a multiple of `ROWS`."""
    return -(-rows // ROWS) * ROWS
