"""Locate the photographs that the miniature is trained on, check them and load them."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIST = Path(__file__).with_name("photographs.csv")
LONGER_SIDE = 1024  # pixels of the largest level of a pyramid
SMALLEST_LEVEL = 200  # pixels

Image.MAX_IMAGE_PIXELS = None  # wallpapers are large, and their digests are checked before they are opened


@dataclass(frozen=True)
class Photograph:
    """One line of `photographs.csv`.

    Attributes:
        kind: "photograph", or "object" for a cut-out with a transparent background.
        package: Package that ships the file.
        path: Path inside the unpacked package.
        sha256: Digest of the file.
        licence: Licence that the package states.
        caption: What the image shows.
    """

    kind: str
    package: str
    path: str
    sha256: str
    licence: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """A loaded image at several sizes.

    Attributes:
        levels: The image and its halved versions, uint8 [h, w, 3], or [h, w, 4] with alpha for an object.
        caption: What the image shows.
    """

    levels: tuple[NDArray[np.uint8], ...]
    caption: str


def read_list() -> list[Photograph]:
    """Return all entries of `photographs.csv`."""
    with LIST.open(encoding="utf-8", newline="") as file:
        return [Photograph(**row) for row in csv.DictReader(file)]


def check(folder: Path) -> None:
    """Raise an error unless every listed file lies in `folder` and has the listed digest.

    Args:
        folder: Folder with one subfolder for each package.
    """
    problems = []
    for photograph in read_list():
        path = folder / photograph.package / photograph.path
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != photograph.sha256:
            problems.append(f"{path}: SHA-256 differs from photographs.csv")
    if problems:
        raise SystemExit("\n".join([*problems, f"Fetch the packages again into {folder}: see training/README.md."]))


def load(folder: Path, kind: str) -> list[Picture]:
    """Return all images of one kind.

    Args:
        folder: Folder with one subfolder for each package.
        kind: "photograph" or "object".
    """
    return [
        Picture(_pyramid(_open(folder / photograph.package / photograph.path, kind)), photograph.caption)
        for photograph in read_list()
        if photograph.kind == kind
    ]


def _open(path: Path, kind: str) -> Image.Image:
    with Image.open(path) as image:
        if kind == "photograph":
            image.draft("RGB", (LONGER_SIDE, LONGER_SIDE))
        converted = image.convert("RGB" if kind == "photograph" else "RGBA")
    converted.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
    if kind == "object":
        converted = converted.crop(converted.getchannel("A").getbbox())
    return converted


def _pyramid(image: Image.Image) -> tuple[NDArray[np.uint8], ...]:
    levels = [np.asarray(image)]
    while max(image.size) // 2 >= SMALLEST_LEVEL:
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BOX)
        levels.append(np.asarray(image))
    return tuple(levels)
