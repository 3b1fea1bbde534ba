"""Label propagation without a window: FAISS searches all tokens of the context frames."""

import faiss
import torch
from torch import Tensor

from ditf.propagation.voting import PropagationConfig, vote


class GlobalSearch:
    """Search for source tokens anywhere in the context frames.

    Args:
        config: How labels are propagated. The radius is not used.
    """

    def __init__(self, config: PropagationConfig) -> None:
        self._config = config

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
        queries, base = target.cpu().numpy(), torch.cat([frame for frame, _ in context]).cpu().numpy()
        k = min(self._config.topk, len(base))
        count = min(k + 1, len(base))
        while True:
            similarity, index = faiss.knn(queries, base, count, metric=faiss.METRIC_INNER_PRODUCT)
            if count == len(base) or (similarity[:, -1] < similarity[:, k - 1]).all():
                break
            count = min(4 * count, len(base))  # because tokens that tie with the k-th also vote
        token = torch.arange(len(target)).repeat_interleave(count).to(target.device)
        labels = torch.cat([soft for _, soft in context])[torch.from_numpy(index.ravel()).to(target.device)]
        similarities = torch.from_numpy(similarity.ravel()).to(target.device)
        return vote(token, similarities, labels, len(target), self._config)
