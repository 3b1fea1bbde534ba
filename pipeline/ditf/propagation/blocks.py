"""Lay out the tokens of a frame in square blocks, so that the sources of a block are in the blocks around it.

Blocks are as wide as the radius of the window. The sources of a block are therefore in 3x3 blocks, and time and memory
grow linearly with the number of tokens. The *centre* is the mean of the first frame's descriptors. Subtracting it from
all descriptors makes inner products and their rounding errors small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SIDE = 8  # smallest side of a block in tokens, because smaller matrix products are slow
TOKENS_AT_ONCE = 256  # number of tokens whose descriptors fit into the processor's cache


class BlockGrid:
    """The blocks of a grid of tokens.

    Args:
        grid: Rows and columns of tokens.
        radius: Radius of the window in tokens.
        device: Torch device of the indices.

    Attributes:
        side: Side of a block in tokens.
        count: Rows and columns of blocks.
        token: Token at each place of each block, [rows, columns, side * side]; -1 at places without a token.
        place: Place of each token among the places of all blocks, [h * w].
    """

    def __init__(self, grid: tuple[int, int], radius: int, device: torch.device) -> None:
        self.grid, self.radius = grid, radius
        self.side = max(LEAST_SIDE, min(radius, max(grid)))
        self.count = (-(-grid[0] // self.side), -(-grid[1] // self.side))
        rows, columns = self.count
        y, x = torch.meshgrid(torch.arange(rows * self.side), torch.arange(columns * self.side), indexing="ij")
        token = torch.where((y < grid[0]) & (x < grid[1]), y * grid[1] + x, -1)
        self.token = token.reshape(rows, self.side, columns, self.side).transpose(1, 2).flatten(2).to(device)
        self.place = self.token.flatten().argsort(stable=True)[-grid[0] * grid[1] :]
        self._places = torch.arange(self.token.numel(), device=device).reshape(self.token.shape)
        self._reach = -(-radius // self.side)

    def near(self, row: int, column: int) -> "Neighbourhood":
        """Return the sources that the tokens of a block may have.

        Args:
            row: Row of the block.
            column: Column of the block.
        """
        rows = slice(max(row - self._reach, 0), row + self._reach + 1)
        columns = slice(max(column - self._reach, 0), column + self._reach + 1)
        tokens, near = self.token[row, column], self.token[rows, columns].flatten(1)[:, :, None]
        width = self.grid[1]
        distance = (tokens // width - near // width).abs().maximum((tokens % width - near % width).abs())
        outside = (distance > self.radius) | (near < 0)
        penalty = torch.zeros(outside.shape, device=tokens.device).masked_fill_(outside, -torch.inf)
        return Neighbourhood(rows, columns, self._places[rows, columns].flatten(1), penalty)


@dataclass(frozen=True)
class Neighbourhood:
    """The sources of a block, grouped by rows of blocks.

    Attributes:
        rows: Rows of the blocks that hold sources.
        columns: Columns of the blocks that hold sources.
        places: Places of the sources, [rows of blocks, sources].
        penalty: 0 for sources inside a token's window and -inf outside, [rows of blocks, sources, side * side].
    """

    rows: slice
    columns: slice
    places: Tensor
    penalty: Tensor


@dataclass(frozen=True)
class Frame:
    """The unit descriptors of a frame in blocks, stored as the sum centre + coarse + fine.

    Attributes:
        coarse: Rounded descriptors for the search, bfloat16 or float32 [rows, columns, side * side, C].
        fine: Rounding errors of `coarse`, float16 [places, C], or None if `coarse` is float32.
        centre_product: Inner products of the descriptors with the centre, [places].
        norms: Upper bounds of the lengths of `coarse`, [places].
        length: Greatest length of coarse + fine.
        error: Greatest length of `fine`.
    """

    coarse: Tensor
    fine: Tensor | None
    centre_product: Tensor
    norms: Tensor
    length: float
    error: float

    @classmethod
    def of(cls, descriptors: Tensor, centre: Tensor, layout: BlockGrid, dtype: torch.dtype) -> "Frame":
        """Normalize the descriptors of a frame and lay them out in blocks.

        Args:
            descriptors: Descriptors, float32 [n, C].
            centre: Centre of the descriptors, [C].
            layout: Blocks of the grid.
            dtype: Type of `coarse`.
        """
        shape = (layout.token.numel(), descriptors.shape[1])
        coarse = descriptors.new_zeros(shape, dtype=dtype)
        fine = descriptors.new_zeros(shape, dtype=torch.float16) if dtype != torch.float32 else None
        products, lengths, errors = descriptors.new_zeros(3, shape[0])
        for chunk, place in zip(descriptors.split(TOKENS_AT_ONCE), layout.place.split(TOKENS_AT_ONCE), strict=True):
            remainder = torch.nn.functional.normalize(chunk, dim=1)
            products[place] = remainder @ centre
            remainder -= centre
            lengths[place] = torch.linalg.vector_norm(remainder, dim=1)
            coarse[place] = rounded = remainder.to(dtype)
            if fine is not None:
                remainder -= rounded
                errors[place] = torch.linalg.vector_norm(remainder, dim=1)
                fine[place] = remainder.to(torch.float16)
        error = float(errors.max())
        shaped = coarse.unflatten(0, layout.token.shape)
        return cls(shaped, fine, products, lengths + error, float(lengths.max()), error)

    def rows(self, place: Tensor) -> Tensor:
        """Return the descriptors at the given places minus the centre, float32 [n, C]."""
        coarse = self.coarse.flatten(0, 2).index_select(0, place).float()
        return coarse if self.fine is None else coarse.add_(self.fine.index_select(0, place).float())


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the hardware multiplies it faster than float32, otherwise float32."""
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cuda" or quick else torch.float32
