"""Rule source tokens out by the leading principal axes of the descriptors.

The inner product of two descriptors is the inner product of their projections on the axes plus the inner product of
their residuals. By the Cauchy-Schwarz inequality, the latter is at most the product of the residuals' lengths. A source
token whose projections have a small inner product is therefore not among the k nearest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditf.propagation.blocks import BlockGrid, Frame

AXES = 256  # number of axes
SAMPLE = 768  # tokens of the first frame from which the axes are computed


@dataclass(frozen=True)
class ReducedFrame:
    """Projections of a frame's descriptors on the axes.

    Attributes:
        leading: Projections in blocks, [rows, columns, side * side, axes].
        residual: Upper bounds of the lengths of the residuals, [places].
    """

    leading: Tensor
    residual: Tensor


class PruningAxes:
    """The leading principal axes of a frame's descriptors.

    Args:
        frame: The frame.
        layout: Blocks of the grid.
        count: Number of axes.
    """

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
        """Project the descriptors of a frame on the axes."""
        leading = frame.coarse.flatten(0, 2) @ self._matrix
        length = (1 - self._eps) * torch.linalg.vector_norm(leading, dim=1, dtype=torch.float32)
        residual = (frame.norms.square() - length.square()).clamp(min=0).sqrt()
        return ReducedFrame(leading.unflatten(0, frame.coarse.shape[:3]), residual)
