"""The vote of source tokens for the labels of a token, and its settings."""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 16  # similarities that are reduced to their maximum before the k greatest are selected


@dataclass(frozen=True)
class PropagationConfig:
    """How labels are propagated.

    Attributes:
        topk: Most similar source tokens that vote for each token. Sources as similar as the last one also vote.
        temperature: Temperature of the weights exp(similarity / temperature).
        n_last_frames: Preceding frames in the context besides the first frame.
        radius: Greatest distance in rows and columns between a token and its sources. 0 means no limit.
    """

    topk: int = 5
    temperature: float = 0.1
    n_last_frames: int = 7
    radius: int = 12


def kth_bound(similarity: Tensor, k: int) -> Tensor:
    """Return a lower bound of each token's k-th greatest similarity.

    Args:
        similarity: Similarities of sources and tokens, [sources, tokens].
        k: Rank.

    Returns:
        A value per token, [tokens], that at least k sources reach if there are k.
    """
    sources = len(similarity)
    if sources >= GROUP * k:  # the k-th greatest group has k similarities at least as large as itself
        grouped = sources - sources % GROUP
        similarity = similarity[:grouped].unflatten(0, (-1, GROUP)).amax(1)
    return similarity.topk(min(k, len(similarity)), dim=0).values[-1]


def vote(token: Tensor, similarity: Tensor, labels: Tensor, count: int, config: PropagationConfig) -> Tensor:
    """Compute the soft labels of tokens from candidates for their source tokens.

    Args:
        token: Token of each candidate, sorted, [m].
        similarity: Similarity of each candidate, [m].
        labels: Labels of each candidate, [m, objects + 1].
        count: Number of tokens.
        config: How labels are propagated.

    Returns:
        Soft labels, [count, objects + 1].
    """
    number = torch.bincount(token, minlength=count)
    column = torch.arange(len(token), device=token.device) - (number.cumsum(0) - number)[token]
    table = similarity.new_full((count, int(number.max())), -torch.inf)
    table[token, column] = similarity
    greatest = table.topk(min(config.topk, table.shape[1]), dim=1).values
    # Rows with fewer candidates than k keep them all.
    least = greatest.masked_fill(greatest.isinf(), torch.inf).amin(1)
    # Subtracting the maximum changes no weight after normalization, and keeps exp finite.
    weight = ((similarity - greatest[token, 0]) / config.temperature).exp()
    weight = weight * (similarity >= least[token])
    total = similarity.new_zeros(count).index_add_(0, token, weight)
    votes = labels.new_zeros(count, labels.shape[1]).index_add_(0, token, labels * weight[:, None])
    return votes / total[:, None]
