"""What every search shares: its settings, the k-th greatest similarity, and the vote of a token's neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 16  # similarities whose maximum stands for them in the search for the k greatest


@dataclass(frozen=True)
class PropagationConfig:
    """How labels travel.

    topk: sources kept for each token, and every tie with the last. temperature: of the weights
    exp(similarity / temperature). n_last_frames: frames of context besides the first. radius: a source is within +-
    this many tokens; 0 is no limit.
    """

    topk: int = 5
    temperature: float = 0.1
    n_last_frames: int = 7
    radius: int = 12


def kth_bound(similarity: Tensor, k: int) -> Tensor:
    """A value per token that is at most its k-th greatest similarity, [tokens], of similarities [sources, tokens]."""
    sources = len(similarity)
    if sources >= GROUP * k:  # the k-th greatest group has k similarities at least as large as itself
        whole = sources - sources % GROUP
        similarity = similarity[:whole].unflatten(0, (-1, GROUP)).amax(1)
    return similarity.topk(min(k, len(similarity)), dim=0).values[-1]


def vote(token: Tensor, similarity: Tensor, labels: Tensor, count: int, voting: PropagationConfig) -> Tensor:
    """Soft labels [count, objects + 1] of tokens from candidates for their sources.

    Args:
        token: of each candidate, sorted, [m].
        similarity: [m]. labels: of the candidate, [m, objects + 1].
        count: of the tokens.
        voting: which candidates vote, and with which weight.
    """
    number = torch.bincount(token, minlength=count)
    column = torch.arange(len(token), device=token.device) - (number.cumsum(0) - number)[token]
    table = similarity.new_full((count, int(number.max())), -torch.inf)
    table[token, column] = similarity
    greatest = table.topk(min(voting.topk, table.shape[1]), dim=1).values
    # Rows with fewer candidates than k keep them all.
    least = greatest.masked_fill(greatest.isinf(), torch.inf).amin(1)
    # Subtracting the maximum changes no weight after normalization, and keeps exp finite.
    weight = ((similarity - greatest[token, 0]) / voting.temperature).exp()
    weight = weight * (similarity >= least[token])
    total = similarity.new_zeros(count).index_add_(0, token, weight)
    votes = labels.new_zeros(count, labels.shape[1]).index_add_(0, token, labels * weight[:, None])
    return votes / total[:, None]
