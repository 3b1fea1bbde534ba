"""Reading images, and the rules by which benchmarks resize them for a model."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ditf.errors import UserError
from ditf.types import Rule

MAX_SIDE = 16384  # longer sides are not photographs, and would exhaust memory
MAX_PIXELS = 178_956_970  # where PIL, too, refuses
PNG_COMPRESSION = 1  # a third of the time of its default, for a tenth more bytes

RGB = NDArray[np.uint8]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFile:
    """What the catalog keeps of an image file: SHA-256 of its bytes, and its size in pixels."""

    sha256: str
    width: int
    height: int


def inspect(path: Path) -> ImageFile:
    """Decode an image fully and describe it. Raises `UserError` for what is not a readable image."""
    data = _content(path)
    image = decode(data, path)
    return ImageFile(hashlib.sha256(data).hexdigest(), image.shape[1], image.shape[0])


def read_rgb(path: Path, sha256: str | None = None) -> RGB:
    """Read an image file of any mode as RGB, upright, [height, width, 3].

    Args:
        path: of the file.
        sha256: what its bytes must hash to, where that is known.

    Raises:
        UserError: it is not a readable image, or not the one that `sha256` says.
    """
    data = _content(path)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: changed since the catalog was made; put it back, or make the catalog anew")
    return decode(data, path)


def decode(data: bytes, path: Path) -> RGB:
    """The RGB pixels, [height, width, 3], of an image file's bytes; `path` names it in errors."""
    with _opened(data, path, "image") as image:
        if image.mode.startswith("I;16"):  # grey of 16 bits: the full range becomes 0..255
            grey = np.asarray(ImageOps.exif_transpose(image), np.float32)
            return np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, 2)
        if image.mode in ("I", "F"):
            raise UserError(f"{path}: mode {image.mode}, of which the range is not known; convert it to 8 or 16 bits")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_index_mask(path: Path) -> Mask:
    """Read a mask as indices, [height, width]: an indexed or grey PNG. Raises `UserError` for RGB and others."""
    return decode_mask(_content(path), path)


def decode_mask(data: bytes, path: Path) -> Mask:
    """The indices of a mask file's bytes, [height, width]; `path` names it in errors."""
    with _opened(data, path, "mask") as image:
        if image.mode not in ("P", "L", "1"):
            raise UserError(f"{path}: mode {image.mode}; a mask is an indexed or grey PNG")
        return np.array(image, np.uint8)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; restore it from the data set") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def _opened(data: bytes, path: Path, what: str) -> Iterator[Image.Image]:
    """An image file, opened. Raises `UserError` for what cannot be decoded, or is too large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels; at most {MAX_SIDE} a side and "
                    f"{MAX_PIXELS // 10**6} million in all: scale it down"
                )
            yield image
    except UserError:
        raise
    except Exception as error:  # of whatever kind a decoder raises: files come from anywhere
        raise UserError(f"{path}: not a readable {what} ({error}); replace it by a whole copy") from None


def model_size(rule: Rule, img_size: int, width: int, height: int, multiple: int) -> tuple[int, int]:
    """The (width, height) in pixels at which a model sees an image; both are multiples of `multiple`.

    Args:
        rule: "longer" (SPair-71k): the longer side becomes `img_size`, each side rounded to a multiple of
            `multiple`. "shorter" (DAVIS): the shorter side becomes `img_size`, the longer is floored to a multiple of
            32, or of `multiple` above that. "square": both sides become `img_size`.
        img_size: in pixels.
        width, height: of the image, in pixels.
        multiple: of which the model takes sides, in pixels.

    Raises:
        UserError: `img_size` is not a multiple of `multiple`, and the rule cannot round it.
    """
    if rule == "longer":
        scale = img_size / max(width, height)
        w, h = (max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))
        return w, h
    if img_size % multiple:
        raise UserError(f"img_size: {img_size} is not a multiple of {multiple}, as the model needs it")
    if rule == "square":
        return img_size, img_size
    step = -(-32 // multiple) * multiple
    longer = max(width, height) * img_size // min(width, height) // step * step
    longer = max(longer, img_size)
    return (img_size, longer) if width < height else (longer, img_size)


def resize_for_model(image: RGB, rule: Rule, img_size: int, multiple: int) -> RGB:
    """Resize an image as `model_size` says: bilinear by OpenCV for "shorter", else bicubic by PIL."""
    size = model_size(rule, img_size, image.shape[1], image.shape[0], multiple)
    if rule == "shorter":
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def shrink(image: RGB, longer: int) -> RGB:
    """Scale an image down so that its longer side is `longer` pixels; one that is smaller stays as it is."""
    scale = min(1.0, longer / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
