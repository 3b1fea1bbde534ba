"""Index masks on disk: PNGs with the DAVIS palette."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VOID = 255  # in annotations: counts for nothing


def _palette() -> list[int]:
    """DAVIS's colours: the first 22 of PASCAL VOC's map (with 191 where that has 192), then greys."""
    colours = []
    for index in range(22):
        for channel in range(3):
            value = 128 * (index >> channel & 1) + 64 * (index >> (channel + 3) & 1)
            colours.append(191 if value == 192 else value)
    return colours + [index for index in range(22, 256) for _ in range(3)]


PALETTE = _palette()


def save_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write an index mask [height, width] as an indexed PNG with the DAVIS palette."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(PALETTE)
    image.save(path)
