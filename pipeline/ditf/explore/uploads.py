"""Images and masks that users upload to the explorer."""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ditf.config.params import Params
from ditf.errors import NotFoundError, UserError
from ditf.features.store import FeatureStore
from ditf.files import fingerprint
from ditf.project.queries import features_of_file

MOST_BYTES = 20 << 20  # of a file
MOST_PIXELS = 40_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # decoding them runs no other program
PREFIX = "upload/"


class TooLargeError(UserError):
    """An uploaded file has too many bytes or pixels."""


@dataclass(frozen=True)
class Upload:
    """An uploaded image with features.

    Attributes:
        path: The file.
        store: Store of its features.
        item: Id of the image in the store.
    """

    path: Path
    store: FeatureStore
    item: str


class Uploads:
    """Uploaded images by entry and id. An upload is forgotten when its file is removed."""

    def __init__(self) -> None:
        self._uploads: dict[tuple[str, str], Upload] = {}

    def add(self, entry: str, id: str, upload: Upload) -> None:
        """Add an image.

        Args:
            entry: The entry of `features` whose settings were used.
            id: Id of the image.
            upload: The image.
        """
        self._uploads = {key: each for key, each in self._uploads.items() if each.path.is_file()}
        self._uploads[entry, id] = upload

    def of(self, entry: str) -> dict[str, Upload]:
        """Return the uploaded images of an entry by id, the latest first."""
        found = {id: upload for (name, id), upload in self._uploads.items() if name == entry and upload.path.is_file()}
        return dict(reversed(found.items()))

    def get(self, entry: str, id: str) -> Upload | None:
        """Return an uploaded image, or None if the id is not that of an upload.

        Raises:
            UserError: The image was uploaded for another entry or is forgotten.
        """
        upload = self._uploads.get((entry, id))
        if upload is not None and upload.path.is_file():
            return upload
        if id.startswith(PREFIX):
            raise NotFoundError(f"{id}: not found among the uploads for {entry}. Upload the image again.")
        return None


def check_image(data: bytes) -> None:
    """Check from the header of an uploaded file that it can be decoded safely.

    Args:
        data: Content of the file.

    Raises:
        TooLargeError: The file has too many bytes or pixels.
        UserError: The file is not an image in one of the accepted formats.
    """
    if len(data) > MOST_BYTES:
        raise TooLargeError(f"file: {len(data):,} bytes. Upload at most {MOST_BYTES:,} bytes.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise TooLargeError(f"file: too many pixels. Scale it down to {MOST_PIXELS // 10**6} million.") from None
    except Exception:  # decoders raise exceptions of any kind
        raise UserError(f"file: not an image in one of the formats {', '.join(FORMATS)}. Convert it.") from None
    if width * height > MOST_PIXELS:
        raise TooLargeError(f"file: {width}x{height} pixels. Scale it down to {MOST_PIXELS // 10**6} million.")


def upload_id(data: bytes, prompt: str | None) -> str:
    """Return the id of an uploaded image. Equal files with equal prompts have equal ids.

    Args:
        data: Content of the file.
        prompt: Prompt that the user gave, or None.
    """
    return PREFIX + fingerprint([hashlib.sha256(data).hexdigest(), prompt])[:16]


def file_name(name: str | None) -> str:
    """Return a safe file name that resembles the name that a browser sent."""
    return re.sub(r"[^\w.-]+", "_", Path(name or "").name)[-80:].strip(".") or "image"


def extract_upload(
    params: Params, entry: str, path: Path, prompt: str | None, report: Callable[[int], object]
) -> tuple[Path, str]:
    """Extract the features of an uploaded image, and report the finished noise samples. Runs in the worker.

    Returns:
        The store, and the id of the image in it.
    """
    reader, item = features_of_file(params, entry, path, prompt, report)
    return reader.path, item
