"""Reading images, and the two rules by which the benchmarks resize them for the model."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.errors import UserError

TOKEN = 16  # pixels a token covers along each side
MAX_SIDE = 16384  # longer sides are not photographs, and would exhaust memory

Rule = Literal["longer", "shorter"]
RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Facts:
    """What the catalog keeps of an image file: SHA-256 of its bytes, and its size in pixels."""

    sha256: str
    width: int
    height: int


def inspect(path: Path) -> Facts:
    """Decode an image fully and describe it. Raises `UserError` for whatever is no readable image."""
    image = read_rgb(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(digest, image.shape[1], image.shape[0])


def read_rgb(path: Path) -> RGB:
    """Read an image file of any mode as RGB, upright, [height, width, 3]."""
    with _opened(path, "image") as image:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            raise UserError(f"{path}: {image.mode} pixels; convert it to 8 bits a channel")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_index_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask as indices, [height, width]: an indexed or grey PNG. Raises `UserError` for RGB and others."""
    with _opened(path, "mask") as image:
        if image.mode not in ("P", "L", "1"):
            raise UserError(f"{path}: mode {image.mode}; a mask is an indexed or grey PNG")
        return np.array(image, np.uint8)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """An image file, opened. Raises `UserError` for what cannot be read, or is too large, then or later."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if max(image.size) > MAX_SIDE:
                    raise UserError(
                        f"{path}: {image.width}x{image.height} pixels; sides end at {MAX_SIDE}: scale it down"
                    )
                yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: not found; restore it from the data set") from None
    except Exception as error:  # of whatever kind a decoder raises: files come from anywhere
        raise UserError(f"{path}: not a readable {what} ({error}); replace it by a whole copy") from None


def model_size(rule: Rule, img_size: int, width: int, height: int) -> tuple[int, int]:
    """The (width, height) at which the model sees an image; both are multiples of 16.

    "longer" (SPair-71k): the longer side becomes `img_size`, each side rounded to a multiple of 16.
    "shorter" (DAVIS): the shorter side becomes `img_size`, the longer side is floored to a multiple of 32.
    """
    if rule == "longer":
        scale = img_size / max(width, height)
        w, h = (max(TOKEN, round(side * scale / TOKEN) * TOKEN) for side in (width, height))
        return w, h
    longer = max(width, height) * img_size // min(width, height) // 32 * 32
    longer = max(longer, img_size)
    return (img_size, longer) if width < height else (longer, img_size)


def for_model(image: RGB, rule: Rule, img_size: int) -> RGB:
    """Resize an image by a benchmark's rule: bicubic by PIL for "longer", bilinear by OpenCV for "shorter"."""
    size = model_size(rule, img_size, image.shape[1], image.shape[0])
    if rule == "longer":
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def shrink(image: RGB, longer: int) -> RGB:
    """Scale an image down so that its longer side is `longer` pixels; one that is smaller stays as it is."""
    scale = min(1.0, longer / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
