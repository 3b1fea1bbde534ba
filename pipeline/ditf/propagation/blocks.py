"""A frame's tokens laid out in square blocks, so that the sources near a block are the blocks around it.

Blocks are as wide as the window's radius: then these are 3x3 blocks, and time and memory grow linearly with the
tokens. The mean of the first frame's descriptors, the *centre*, is subtracted from all: it makes products, and
their rounding, small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SIDE = 8  # of a block; in smaller ones the matrix products are too small to be fast
TOKENS_AT_ONCE = 256  # so that their descriptors stay in the processor's cache


class BlockGrid:
    """Where the tokens of a grid lie in blocks.

    Attributes:
        side: of a block, in tokens. count: blocks (down, across).
        token: at each place of each block, [down, across, side * side]; -1 where there is none.
        place: of each token among the places of all blocks, [h * w].
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
        """The blocks in reach of one."""
        rows = slice(max(row - self._reach, 0), row + self._reach + 1)
        columns = slice(max(column - self._reach, 0), column + self._reach + 1)
        own, near = self.token[row, column], self.token[rows, columns].flatten(1)[:, :, None]
        width = self.grid[1]
        apart = (own // width - near // width).abs().maximum((own % width - near % width).abs())
        outside = (apart > self.radius) | (near < 0)
        penalty = torch.zeros(outside.shape, device=own.device).masked_fill_(outside, -torch.inf)
        return Neighbourhood(rows, columns, self._places[rows, columns].flatten(1), penalty)


@dataclass(frozen=True)
class Neighbourhood:
    """The sources in reach of a block, by rows of blocks.

    places: [rows of blocks, sources]. penalty: 0 inside a token's window and -inf outside, [rows of blocks, sources,
    side * side].
    """

    rows: slice
    columns: slice
    places: Tensor
    penalty: Tensor


@dataclass(frozen=True)
class Frame:
    """A frame's unit descriptors as centre + coarse + fine, in blocks.

    coarse: for the search, [down, across, side * side, C], bfloat16 or float32. fine: what rounding took, [places, C],
    in float16 for its longer mantissa, or None. centre_product: dot products of the descriptors with the centre,
    [places]. norms: upper bounds of the lengths of coarse, [places]. length: the greatest length of coarse + fine.
    error: that of fine.
    """

    coarse: Tensor
    fine: Tensor | None
    centre_product: Tensor
    norms: Tensor
    length: float
    error: float

    @classmethod
    def of(cls, descriptors: Tensor, centre: Tensor, layout: BlockGrid, dtype: torch.dtype) -> "Frame":
        """Lay out the descriptors [n, C] of a frame, with coarse in `dtype`."""
        shape = (layout.token.numel(), descriptors.shape[1])
        coarse = descriptors.new_zeros(shape, dtype=dtype)
        fine = descriptors.new_zeros(shape, dtype=torch.float16) if dtype != torch.float32 else None
        products, lengths, errors = descriptors.new_zeros(3, shape[0])
        for part, place in zip(descriptors.split(TOKENS_AT_ONCE), layout.place.split(TOKENS_AT_ONCE), strict=True):
            rest = torch.nn.functional.normalize(part, dim=1)
            products[place] = rest @ centre
            rest -= centre
            lengths[place] = torch.linalg.vector_norm(rest, dim=1)
            coarse[place] = rounded = rest.to(dtype)
            if fine is not None:
                rest -= rounded
                errors[place] = torch.linalg.vector_norm(rest, dim=1)
                fine[place] = rest.to(torch.float16)
        error = float(errors.max())
        shaped = coarse.unflatten(0, layout.token.shape)
        return cls(shaped, fine, products, lengths + error, float(lengths.max()), error)

    def rows(self, place: Tensor) -> Tensor:
        """The descriptors less the centre at places, [n, C], float32."""
        coarse = self.coarse.flatten(0, 2).index_select(0, place).float()  # much faster than [place]
        return coarse if self.fine is None else coarse.add_(self.fine.index_select(0, place).float())


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32."""
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cuda" or quick else torch.float32
