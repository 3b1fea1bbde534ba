"""Ruling sources out by the leading principal axes of the descriptors.

A dot product is that of the parts along the axes plus that of the rests, and the latter is at most the product of the
rests' lengths (Cauchy and Schwarz). So where the first is small enough, the source is not among the k nearest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditf.propagation.blocks import BlockGrid, Frame

AXES = 256
SAMPLE = 768  # tokens of the first frame that the axes are found from


@dataclass(frozen=True)
class ReducedFrame:
    """A frame along the axes. leading: in blocks, [down, across, side * side, axes]. rest: upper bounds of the lengths
    of what that lacks, [places]."""

    leading: Tensor
    rest: Tensor


class PruningAxes:
    """The leading principal axes of a frame's descriptors, orthonormal but for rounding; [C, axes]."""

    def __init__(self, frame: Frame, layout: BlockGrid, count: int) -> None:
        coarse = frame.coarse.flatten(0, 2)
        sample = coarse[layout.place[:: -(-len(layout.place) // SAMPLE)]].float()
        _, vectors = torch.linalg.eigh(sample @ sample.T)
        axes = torch.linalg.qr(sample.T @ vectors[:, -count:]).Q
        # After rounding no longer orthonormal; that none lengthens a vector is all that the bound needs.
        self._eps = torch.finfo(coarse.dtype).eps
        longest = 1 + count**0.5 * self._eps / 4 + 1e-5
        self._matrix = (axes / longest).to(coarse.dtype)

    def apply(self, frame: Frame) -> ReducedFrame:
        """Reduce a frame."""
        leading = frame.coarse.flatten(0, 2) @ self._matrix
        known = (1 - self._eps) * torch.linalg.vector_norm(leading, dim=1, dtype=torch.float32)
        rest = (frame.norms.square() - known.square()).clamp(min=0).sqrt()
        return ReducedFrame(leading.unflatten(0, frame.coarse.shape[:3]), rest)
