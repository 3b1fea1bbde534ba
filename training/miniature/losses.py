"""Losses of the miniature's transformer."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

TEMPERATURE = 0.1  # of the softmax over similarities to other tokens
MATCH_TEMPERATURE = 0.07  # of the softmax over positions in the other view


def similarity(student: Tensor, teacher: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the student's cosine similarities are from the teacher's.

    Args:
        student: Tokens, float32 [groups, n, channels]; tokens of one group are compared.
        teacher: Features of unit length of the same tokens, float32 [groups, n, channels].
        weights: Weight of each token, float32 [groups, n].

    Returns:
        The weighted KL divergence of row-wise softmax distributions, and the weighted mean squared difference.
    """
    student = normalize(student, dim=-1)
    ours, theirs = student @ student.transpose(1, 2), teacher @ teacher.transpose(1, 2)
    squared = ((ours - theirs).square().mean(2) * weights).mean()
    # A token's similarity to itself is always 1 and would hide the others.
    itself = torch.eye(ours.shape[1], dtype=torch.bool)
    ours = log_softmax((ours / TEMPERATURE).masked_fill(itself, -1e4), -1)
    theirs = log_softmax((theirs / TEMPERATURE).masked_fill(itself, -1e4), -1)
    divergence = ((theirs.exp() * (theirs - ours)).sum(2) * weights).mean()
    return divergence, squared


def correspondence(student: Tensor, targets: Tensor, grid: tuple[int, int], weights: Tensor) -> Tensor:
    """Return the cross entropy of finding each token's known position in the other view.

    Args:
        student: Tokens of both views, float32 [pairs, 2, tokens, channels].
        targets: Positions in the second view of tokens of the first, in tokens, float32 [pairs, tokens, 2] as x, y;
            NaN where unknown.
        grid: Rows and columns of tokens.
        weights: Weight of each pair, float32 [pairs].
    """
    student = normalize(student, dim=-1)
    logits = log_softmax(student[:, 0] @ student[:, 1].transpose(1, 2) / MATCH_TEMPERATURE, -1)
    known = ~targets[..., 0].isnan()
    rows, columns = grid
    x = targets[..., 0].nan_to_num(0).clamp(0, columns - 1)
    y = targets[..., 1].nan_to_num(0).clamp(0, rows - 1)
    left, top = x.floor().clamp(max=columns - 2), y.floor().clamp(max=rows - 2)
    total = torch.zeros_like(x)
    for down in (0, 1):
        for right in (0, 1):
            share = (1 - (x - left - right).abs()) * (1 - (y - top - down).abs())
            index = ((top + down) * columns + left + right).long()
            total = total + share * logits.gather(2, index[..., None])[..., 0]
    factors = known * weights[:, None]
    return -(total * factors).sum() / known.sum().clamp(min=1)
