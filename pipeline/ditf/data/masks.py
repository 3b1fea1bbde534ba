"""Index masks: reading them, and writing them as PNGs with the DAVIS palette."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import open_image, printable, read_bytes
from ditf.errors import UserError

VOID = 255  # in annotations: neither background nor object
MAX_SCATTERED_VALUES = 8  # a grey mask with more values that are not 1, 2, 3, ... is a picture, not indices
ENCODING = "A mask is an indexed or grey PNG: 0 for background, 1, 2, ... for objects or classes"

Mask = NDArray[np.uint8]


def read_index_mask(path: Path) -> Mask:
    """Read a mask.

    Args:
        path: An indexed or grey image file in a lossless format.

    Returns:
        The indices, [height, width].

    Raises:
        UserError: The file cannot be read, or is not a mask.
    """
    return decode_mask(read_bytes(path), path)


def decode_mask(data: bytes, path: Path) -> Mask:
    """Decode a mask; see `read_index_mask`.

    Args:
        data: Content of the file.
        path: Name of the file, for errors.
    """
    with open_image(data, path, "mask") as image:
        if image.mode not in ("P", "L", "1"):
            raise UserError(f"{printable(path)}: mode {image.mode}. {ENCODING}.")
        if image.format == "JPEG":
            raise UserError(f"{printable(path)}: JPEG changes the indices of a mask. Save it as PNG. {ENCODING}.")
        return np.array(image, np.uint8)


def read_object_mask(path: Path) -> Mask:
    """Read a mask that a user painted: an index mask, or a picture of one white object on black.

    A picture may be a JPEG or have soft edges. Then pixels of at least half the brightness belong to the object.

    Args:
        path: The file.

    Returns:
        The values, [height, width]. The object of such a picture has the value 255.

    Raises:
        UserError: The file cannot be read, or is not a mask.
    """
    data = read_bytes(path)
    with open_image(data, path, "mask") as image:
        if image.mode != "L" and image.format != "JPEG":
            return decode_mask(data, path)
        pixels = np.asarray(image.convert("L"))
        if image.format != "JPEG" and not _has_soft_edges(pixels):
            return decode_mask(data, path)
    white = pixels >= 128
    blurred = int(np.count_nonzero((pixels >= 64) & (pixels < 192)))
    if blurred >= max(1, int(np.count_nonzero(white))) or (np.any(pixels > 32) and not white.any()):
        raise UserError(
            f"{printable(path)}: neither an index mask nor a picture of one white object on black. {ENCODING}."
        )
    return np.where(white, 255, 0).astype(np.uint8)


def _has_soft_edges(pixels: Mask) -> bool:
    """Return whether a grey image has the many, scattered values of a picture instead of indices."""
    values = np.setdiff1d(pixels, (0, VOID))
    return len(values) > MAX_SCATTERED_VALUES and not np.array_equal(values, np.arange(1, len(values) + 1))


def object_values(mask: Mask) -> list[int]:
    """Return the values of a mask that are objects. 255 is one only if it is the only value."""
    values = sorted({int(value) for value in np.unique(mask)} - {0})
    return values if values == [VOID] else [value for value in values if value != VOID]


def number_objects(mask: Mask, values: list[int]) -> Mask:
    """Number the objects of a mask from 1.

    Args:
        mask: A mask as painted.
        values: Values of the objects in the first mask. If there is one, a single object in `mask` may have any value.
    """
    shown = object_values(mask)
    numbers = np.zeros(256, np.uint8)
    if shown != [VOID]:
        numbers[VOID] = VOID
    for number, value in enumerate(shown if len(values) == len(shown) == 1 else values, 1):
        numbers[value] = number
    return np.asarray(numbers[mask])


def _palette() -> list[int]:
    """Return DAVIS's colors: the first 22 of PASCAL VOC's map, with 191 instead of 192, then greys."""
    colors = []
    for index in range(22):
        for channel in range(3):
            value = 128 * (index >> channel & 1) + 64 * (index >> (channel + 3) & 1)
            colors.append(191 if value == 192 else value)
    return colors + [index for index in range(22, 256) for _ in range(3)]


PALETTE = _palette()


def encode_mask(mask: Mask) -> bytes:
    """Return an index mask [height, width] as the bytes of an indexed PNG with the DAVIS palette."""
    image, file = Image.fromarray(mask).convert("P"), io.BytesIO()
    image.putpalette(PALETTE)
    image.save(file, "PNG")
    return file.getvalue()


def save_mask(path: Path, mask: Mask) -> None:
    """Write an index mask [height, width] as an indexed PNG with the DAVIS palette."""
    path.write_bytes(encode_mask(mask))
