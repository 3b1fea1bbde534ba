"""Labels on the token grid: one-hot from a mask, and back to a mask."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ditf.data.masks import VOID
from ditf.features.bilinear import AxisInterpolation


def first_labels(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """One-hot labels [objects + 1, h, w] of an index mask [height, width], resized by nearest neighbour.

    Void, 255, counts as background.
    """
    h, w = grid
    mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
    small = np.asarray(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST))
    return (small == np.arange(int(mask.max()) + 1)[:, None, None]).astype(np.float32)


def hard_mask(soft: NDArray[np.float32], size: tuple[int, int], stride: int) -> NDArray[np.uint8]:
    """The index mask [height, width] of soft labels [objects + 1, h, w].

    Args:
        soft: upsampled by `stride`, each channel with a positive maximum scaled to 0..1; the greatest channel wins.
        size: (width, height) of the mask, to which it is resized by nearest neighbour.
        stride: pixels that a token covers along each side.
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
