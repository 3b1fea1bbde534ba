"""Sources inside a window by plain matrix products of bands of rows: for GPUs, where these are fast."""

import torch
from torch import Tensor

from ditf.propagation.voting import PropagationConfig, vote

BAND = 4  # rows of tokens whose similarities are computed at once


class BandedSearch:
    """Votes from sources inside a square window around each token, all similarities in float32.

    Args:
        grid: tokens (down, across).
        voting: with the window's radius.
    """

    def __init__(self, grid: tuple[int, int], voting: PropagationConfig) -> None:
        self._grid, self._voting = grid, voting

    def prepare(self, descriptors: Tensor) -> Tensor:
        """Unit descriptors [n, C] of a frame."""
        return torch.nn.functional.normalize(descriptors, dim=1)

    def labels(self, target: Tensor, context: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame, from (descriptors, labels) of each frame of context."""
        (h, w), radius = self._grid, self._voting.radius
        rows, columns = (
            p.ravel().to(target.device) for p in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        )
        parts = []
        for top in range(0, h, BAND):
            own = slice(top * w, min(top + BAND, h) * w)
            near = slice(max(top - radius, 0) * w, min(top + BAND + radius, h) * w)
            apart = (rows[own, None] - rows[near]).abs().maximum((columns[own, None] - columns[near]).abs())
            outside = (apart > radius).repeat(1, len(context))
            similarity = torch.cat([target[own] @ frame[near].T for frame, _ in context], 1)
            similarity.masked_fill_(outside, -torch.inf)
            least = similarity.topk(min(self._voting.topk, similarity.shape[1]), dim=1).values[:, -1:]
            least = least.clamp(min=torch.finfo(similarity.dtype).min)  # fewer sources than k: all of them
            token, source = (similarity >= least).nonzero(as_tuple=True)
            labels = torch.cat([known[near] for _, known in context])[source]
            parts.append(vote(token, similarity[token, source], labels, len(similarity), self._voting))
        return torch.cat(parts)
