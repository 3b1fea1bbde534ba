"""Sources anywhere in the frames of context, found by FAISS."""

import faiss
import torch
from torch import Tensor

from ditf.propagation.voting import PropagationConfig, vote


class AnywhereSearch:
    """Votes without a window."""

    def __init__(self, voting: PropagationConfig) -> None:
        self._voting = voting

    def prepare(self, descriptors: Tensor) -> Tensor:
        """Unit descriptors [n, C] of a frame."""
        return torch.nn.functional.normalize(descriptors, dim=1)

    def labels(self, target: Tensor, context: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Soft labels [n, objects + 1] of a frame, from (descriptors, labels) of each frame of context."""
        queries, base = target.cpu().numpy(), torch.cat([frame for frame, _ in context]).cpu().numpy()
        k = min(self._voting.topk, len(base))
        count = min(k + 1, len(base))
        while True:
            similarity, index = faiss.knn(queries, base, count, metric=faiss.METRIC_INNER_PRODUCT)
            if count == len(base) or (similarity[:, -1] < similarity[:, k - 1]).all():
                break
            count = min(4 * count, len(base))  # a tie with the k-th may go on beyond what was asked for
        token = torch.arange(len(target)).repeat_interleave(count).to(target.device)
        labels = torch.cat([known for _, known in context])[torch.from_numpy(index.ravel()).to(target.device)]
        found = torch.from_numpy(similarity.ravel()).to(target.device)
        return vote(token, found, labels, len(target), self._voting)
