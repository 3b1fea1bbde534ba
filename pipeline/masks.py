"""Index masks on disk: PNGs with the DAVIS palette."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def _palette() -> list[int]:
    """The PASCAL VOC colour map that DAVIS uses: bits of the index spread over the bits of R, G and B."""
    colours = []
    for index in range(256):
        for channel in range(3):
            bits = (index >> (3 * bit + channel) & 1 for bit in range(8))
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


PALETTE = _palette()


def save_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write an index mask [height, width] as an indexed PNG with the DAVIS palette."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(PALETTE)
    image.save(path)
