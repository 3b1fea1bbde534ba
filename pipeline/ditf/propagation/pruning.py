"""Rule source tokens out by the leading principal axes of the descriptors.

The inner product of two descriptors is the product of their projections on the axes plus the product of the residuals.
The latter is at most the product of the residuals' lengths (Cauchy-Schwarz). So a source token with a small product of
projections is not among the k nearest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditf.propagation.blocks import BlockGrid, Frame

AXES = 256
SAMPLE = 768  # tokens of the first frame from which the axes are computed


@dataclass(frozen=True)
class ReducedFrame:
    """The projections of a frame on the axes.

    Attributes:
        leading: Projections in blocks, [rows, columns, side * side, axes].
        residual: Upper bounds of the lengths of the residuals, [places].
    """

    leading: Tensor
    residual: Tensor


class PruningAxes:
    """The leading principal axes of a frame's descriptors."""

    def __init__(self, frame: Frame, layout: BlockGrid, count: int) -> None:
        coarse = frame.coarse.flatten(0, 2)
        sample = coarse[layout.place[:: -(-len(layout.place) // SAMPLE)]].float()
        _, vectors = torch.linalg.eigh(sample @ sample.T)
        axes = torch.linalg.qr(sample.T @ vectors[:, -count:]).Q
        # Rounded axes are not orthonormal. The bound only needs that projecting lengthens no vector.
        self._eps = torch.finfo(coarse.dtype).eps
        longest = 1 + count**0.5 * self._eps / 4 + 1e-5
        self._matrix = (axes / longest).to(coarse.dtype)

    def apply(self, frame: Frame) -> ReducedFrame:
        """Project a frame on the axes."""
        leading = frame.coarse.flatten(0, 2) @ self._matrix
        known = (1 - self._eps) * torch.linalg.vector_norm(leading, dim=1, dtype=torch.float32)
        residual = (frame.norms.square() - known.square()).clamp(min=0).sqrt()
        return ReducedFrame(leading.unflatten(0, frame.coarse.shape[:3]), residual)
