"""Convert masks to labels on the token grid, and back."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ditf.data.masks import VOID
from ditf.features.bilinear import AxisInterpolation


def first_labels(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Resize an index mask to the token grid by nearest neighbour.

    Args:
        mask: Index mask, uint8 [height, width]. Pixels with 255 are void and count as background.
        grid: Rows and columns of tokens, (h, w).

    Returns:
        One-hot labels, float32 [objects + 1, h, w].
    """
    h, w = grid
    mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
    small = np.asarray(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST))
    return (small == np.arange(int(mask.max()) + 1)[:, None, None]).astype(np.float32)


def hard_mask(soft: NDArray[np.float32], size: tuple[int, int], stride: int) -> NDArray[np.uint8]:
    """Convert soft labels to an index mask.

    The labels are upsampled by the stride, each channel with a positive maximum is scaled to 0..1, and the greatest
    channel wins.

    Args:
        soft: Soft labels, [objects + 1, h, w].
        size: Width and height of the mask, to which it is resized by nearest neighbour.
        stride: Pixels that a token covers along each side.

    Returns:
        Index mask, uint8 [height, width].
    """
    _, h, w = soft.shape
    y, x = AxisInterpolation.of(h, h * stride), AxisInterpolation.of(w, w * stride)
    a, b = y.weight.astype(np.float32)[:, None], x.weight.astype(np.float32)
    rows = soft[:, y.lower] * (1 - a) + soft[:, y.upper] * a
    large = rows[:, :, x.lower] * (1 - b) + rows[:, :, x.upper] * b
    for channel in large:
        low, high = channel.min(), channel.max()
        if high > low:
            channel -= low
            channel /= high - low
        elif high > 0:
            channel[:] = 1
    index = large.argmax(0).astype(np.uint8)
    return np.asarray(Image.fromarray(index).resize(size, Image.Resampling.NEAREST))
