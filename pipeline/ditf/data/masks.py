"""Index masks as PNGs with the DAVIS palette."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VOID = 255  # in annotations: neither background nor object


def _palette() -> list[int]:
    """DAVIS's colours: the first 22 of PASCAL VOC's map (with 191 where that has 192), then greys."""
    colours = []
    for index in range(22):
        for channel in range(3):
            value = 128 * (index >> channel & 1) + 64 * (index >> (channel + 3) & 1)
            colours.append(191 if value == 192 else value)
    return colours + [index for index in range(22, 256) for _ in range(3)]


PALETTE = _palette()


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """An index mask [height, width] as the bytes of an indexed PNG with the DAVIS palette."""
    image, file = Image.fromarray(mask).convert("P"), io.BytesIO()
    image.putpalette(PALETTE)
    image.save(file, "PNG")
    return file.getvalue()


def save_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write an index mask [height, width] as an indexed PNG with the DAVIS palette."""
    path.write_bytes(encode_mask(mask))
