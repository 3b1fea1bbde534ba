"""Label propagation inside a window with plain matrix products, one band of rows at a time.

This is the search for GPUs, where matrix products are fast. On a CPU `ditf.propagation.window` is faster.
"""

import torch
from torch import Tensor

from ditf.propagation.voting import PropagationConfig, vote

BAND = 4  # rows of tokens whose similarities are computed at once


class BandedSearch:
    """Search for source tokens inside a square window around each token, with similarities in float32.

    Args:
        grid: Rows and columns of tokens.
        config: How labels are propagated, with the radius of the window.
    """

    def __init__(self, grid: tuple[int, int], config: PropagationConfig) -> None:
        self._grid, self._config = grid, config

    def prepare(self, descriptors: Tensor) -> Tensor:
        """Return the unit descriptors of a frame, [n, C]."""
        return torch.nn.functional.normalize(descriptors, dim=1)

    def labels(self, target: Tensor, context: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Compute the soft labels of a frame.

        Args:
            target: Unit descriptors of the frame, [n, C].
            context: Unit descriptors, [n, C], and soft labels, [n, objects + 1], of each context frame.

        Returns:
            Soft labels, [n, objects + 1].
        """
        (h, w), radius = self._grid, self._config.radius
        rows, columns = (
            p.ravel().to(target.device) for p in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        )
        soft_labels = []
        for top in range(0, h, BAND):
            band = slice(top * w, min(top + BAND, h) * w)
            near = slice(max(top - radius, 0) * w, min(top + BAND + radius, h) * w)
            distance = (rows[band, None] - rows[near]).abs().maximum((columns[band, None] - columns[near]).abs())
            outside = (distance > radius).repeat(1, len(context))
            similarity = torch.cat([target[band] @ frame[near].T for frame, _ in context], 1)
            similarity.masked_fill_(outside, -torch.inf)
            least = similarity.topk(min(self._config.topk, similarity.shape[1]), dim=1).values[:, -1:]
            least = least.clamp(min=torch.finfo(similarity.dtype).min)  # keeps all sources if there are fewer than k
            token, source = (similarity >= least).nonzero(as_tuple=True)
            labels = torch.cat([soft[near] for _, soft in context])[source]
            soft_labels.append(vote(token, similarity[token, source], labels, len(similarity), self._config))
        return torch.cat(soft_labels)
