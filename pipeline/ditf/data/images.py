"""Read images, and resize them for a model by the rules of benchmarks."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from ditf.errors import NotFoundError, UserError
from ditf.types import Rule

MAX_SIDE = 16384  # longer sides are not photographs, and would exhaust memory
MAX_PIXELS = 178_956_970  # PIL also refuses larger images
MAX_METADATA = 1 << 28  # bytes of text and color profiles in a PNG; PIL's own limit refuses photographs with edit logs
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_METADATA
PNG_COMPRESSION = 1  # a third of the time of its default, for a tenth more bytes

# Suffixes of pictures that are not read, and what to do with them.
SUFFIX_REMEDIES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC images cannot be read; convert them to JPEG"),
    ".jxl": "JPEG XL images cannot be read; convert them to JPEG or PNG",
    ".avif": "AVIF images cannot be read; convert them to JPEG or PNG",
    **dict.fromkeys(
        (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),
        "raw photographs cannot be read; develop them to JPEG",
    ),
    **dict.fromkeys((".svg", ".pdf", ".eps", ".ps", ".ai"), "drawings cannot be read; render them to PNG"),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv", ".mpeg", ".mpg", ".webm"),
        "videos cannot be read here; split them with `ditf frames`",
    ),
    **dict.fromkeys((".zip", ".tar", ".gz", ".7z", ".rar"), "archives cannot be read; unpack them"),
}
# Suffixes that PIL recognizes, but whose files it cannot decode or only renders with other programs.
NOT_IMAGES = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFile:
    """Description of an image file for the catalog.

    Attributes:
        sha256: SHA-256 of the file's bytes, which shows whether the file changed.
        pixels_sha256: Hash of the decoded pixels; see `hash_pixels`.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        orientation: EXIF orientation, 1 to 8; 1 if the image is stored upright.
    """

    sha256: str
    pixels_sha256: str
    width: int
    height: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.width, self.height

    def check_size(self, size: tuple[int, int], where: str, name: str = "its image") -> None:
        """Check that a mask or annotation has the size of this image.

        Args:
            size: (width, height) of the mask or annotation.
            where: File of the mask or annotation, with which the error begins.
            name: How the error calls this image.

        Raises:
            UserError: The sizes differ.
        """
        if size == self.size:
            return
        text = f"{where}: {size[0]}x{size[1]}, but {name} is {self.width}x{self.height}"
        if self.orientation >= 5 and size == self.size[::-1]:
            text += (
                f" once it is turned upright by its EXIF orientation ({self.orientation}). Turn the annotation, too."
            )
        else:
            text += ". Restore or resize one of them."
        raise UserError(text)


def inspect(path: Path) -> ImageFile:
    """Decode an image fully and describe it. Raises `UserError` if it is not a readable image."""
    data = read_bytes(path)
    image, orientation = _decode(data, path)
    digest = hashlib.sha256(data).hexdigest()
    return ImageFile(digest, hash_pixels(image), image.shape[1], image.shape[0], orientation)


def hash_pixels(image: RGB) -> str:
    """Return the SHA-256 of an image's size and pixels, as hexadecimal digits.

    The noise of an image is seeded from this hash, so that the same photograph gets the same features as a file, as a
    copy in another lossless format, and as an array.

    Args:
        image: Upright RGB pixels, uint8 [height, width, 3].
    """
    height, width, _ = image.shape
    digest = hashlib.sha256(f"{width} {height}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def read_rgb(path: Path, sha256: str | None = None) -> RGB:
    """Read an image file of any mode as RGB.

    Args:
        path: The file.
        sha256: SHA-256 that its bytes must have, if it is known.

    Returns:
        The upright image, [height, width, 3].

    Raises:
        UserError: The file is not a readable image, or has another SHA-256.
    """
    data = read_bytes(path)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{printable(path)}: changed since the catalog was made. Restore the file, or run `dvc repro`.")
    return decode(data, path)


def decode(data: bytes, path: Path) -> RGB:
    """Decode an image file.

    Args:
        data: Content of the file.
        path: Name of the file, for errors.

    Returns:
        The upright image, [height, width, 3].
    """
    return _decode(data, path)[0]


def _decode(data: bytes, path: Path) -> tuple[RGB, int]:
    """Return the upright image and its EXIF orientation."""
    with open_image(data, path, "image") as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        return to_rgb(image, printable(path)), orientation


def to_rgb(image: Image.Image, name: str) -> RGB:
    """Return the pixels of a PIL image, turned upright by its EXIF orientation, uint8 [height, width, 3].

    Args:
        image: An image of any mode with 8 or 16 bits. Grey values of 16 bits are scaled to 8 bits.
        name: Name of the image, for errors.

    Raises:
        UserError: The image is too large, or its mode does not say the range of its values.
    """
    _check_size(image, name)
    if image.mode.startswith("I;16"):
        grey = np.asarray(ImageOps.exif_transpose(image), np.float32)
        return np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, 2)
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: mode {image.mode}, whose range is unknown. Convert the image to 8 or 16 bits.")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _check_size(image: Image.Image, name: str) -> None:
    if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{name}: {image.width}x{image.height} pixels; at most {MAX_SIDE} per side and "
            f"{MAX_PIXELS // 10**6} million in all are read. Scale it down."
        )


def readable_suffixes() -> set[str]:
    """Return the suffixes, such as ".jpg", of the pixel formats that PIL reads."""
    suffixes = Image.registered_extensions()  # also loads PIL's plugins
    return {suffix for suffix, kind in suffixes.items() if kind in Image.OPEN} - NOT_IMAGES


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises `UserError` if it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # ValueError: no file can have such a name
        raise NotFoundError(f"{printable(path)}: not found. Restore it, or correct the name.") from None
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read ({error.strerror}). Check the file.") from None


def printable(path: Path | str) -> str:
    r"""Return a path for messages. Bytes that are not UTF-8 are escaped, such as `caf\xe9.jpg`."""
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        escaped = (f"\\x{ord(c) & 0xFF:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)
        return "".join(escaped).encode("utf-8", "backslashreplace").decode("utf-8")
    return text


@contextmanager
def open_image(data: bytes, path: Path, kind: str) -> Iterator[Image.Image]:
    """Open an image file with PIL.

    Args:
        data: Content of the file.
        path: Name of the file, for errors.
        kind: Expected kind of the file, "image" or "mask".

    Yields:
        The image.

    Raises:
        UserError: The image cannot be decoded, or is too large.
    """
    where = printable(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image, where)
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{where}: more than {MAX_PIXELS // 10**6} million pixels. Scale it down.") from None
    except Exception as error:  # decoders raise exceptions of any kind
        raise UserError(f"{where}: not a readable {kind}: {_diagnosis(data, error)}") from None


def _diagnosis(data: bytes, error: Exception) -> str:
    """Say why a file cannot be decoded, and what to do."""
    if not data:
        return "the file is empty. Restore it."
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer. Run `git lfs pull`."
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return f"{SUFFIX_REMEDIES['.heic']}."
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return f"{SUFFIX_REMEDIES['.jxl']}."
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return f"{SUFFIX_REMEDIES['.avif']}."
    if "too large" in str(error).lower() and data.startswith(b"\x89PNG"):
        return f"its metadata exceeds {MAX_METADATA >> 20} MB. Remove the metadata."
    beginning = data[:512]
    if not set(beginning) & set(range(9)) and _is_text(beginning):
        return "a text file, not an image. Give an image file."
    return f"{error}. Restore the file from its source."


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(data) - 4  # the last character may be cut
    return True


def model_size(rule: Rule, img_size: int, width: int, height: int, multiple: int) -> tuple[int, int]:
    """Return the (width, height) in pixels at which a model sees an image. Both are multiples of `multiple`.

    Args:
        rule: "longer" (SPair-71k): the longer side becomes `img_size`, each side rounded to a multiple of
            `multiple`. "shorter" (DAVIS): the shorter side becomes `img_size`; the longer is floored to a multiple of
            32, or of `multiple` if that is larger. "square": both sides become `img_size`.
        img_size: Size in pixels.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        multiple: The model takes sides that are multiples of this, in pixels.

    Raises:
        UserError: `img_size` is not a multiple of `multiple`, and the rule cannot round it.
    """
    if rule == "longer":
        scale = img_size / max(width, height)
        w, h = (max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))
        return w, h
    if img_size % multiple:
        raise UserError(f"img_size: {img_size} is not a multiple of {multiple}. The model needs a multiple of it.")
    if rule == "square":
        return img_size, img_size
    step = -(-32 // multiple) * multiple
    longer = max(width, height) * img_size // min(width, height) // step * step
    longer = max(longer, img_size)
    return (img_size, longer) if width < height else (longer, img_size)


def resize_for_model(image: RGB, rule: Rule, img_size: int, multiple: int) -> RGB:
    """Resize an image to `model_size`. OpenCV resizes bilinearly for "shorter", PIL bicubically for the other rules.

    Args:
        image: RGB pixels, uint8 [height, width, 3].
        rule: Rule of `model_size`.
        img_size: Size in pixels to which the rule resizes.
        multiple: The sides of the result are multiples of this number of pixels.
    """
    size = model_size(rule, img_size, image.shape[1], image.shape[0], multiple)
    if rule == "shorter":
        import cv2  # here, because reading parameters imports this module and would wait for OpenCV

        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def shrink(image: RGB, longer: int) -> RGB:
    """Scale an image down so that its longer side has `longer` pixels. Smaller images are not enlarged."""
    scale = min(1.0, longer / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
