"""Checks and catalog tables that all data sets for semantic segmentation share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.images import ImageFile, read_bytes
from ditf.data.masks import VOID, Mask, decode_mask, encode_mask
from ditf.data.reading import DatasetReader
from ditf.errors import UserError
from ditf.types import Rule


@dataclass(frozen=True)
class MaskedImage:
    """An image of a data set for semantic segmentation.

    Attributes:
        id: Name of the image in the data set.
        split: "train" for images to train on, "test" for images to score.
        image: File of the image.
        mask: File of its mask, which may be missing.
        decode: Function that reads a mask with other indices, and returns its classes. None if the file has the
            indices of the classes.
    """

    id: str
    split: str
    image: Path
    mask: Path
    decode: Callable[[Path], Mask] | None = None


@dataclass(frozen=True)
class Classes:
    """The classes of masks.

    Attributes:
        names: Their names.
        first: Index of the first class. Smaller indices and 255 are ignored.
        remedy: What to do about an index after the last class, in a sentence.
    """

    names: Sequence[str]
    first: int = 0
    remedy: str = "Restore the file."

    @property
    def end(self) -> int:
        """Index after the last class."""
        return self.first + len(self.names)


def class_tables(
    reader: DatasetReader, items: Iterable[MaskedImage], classes: Classes, prompt: str, resize: Rule
) -> Tables:
    """Read and check images and their masks.

    Args:
        reader: Reader of the data set.
        items: The images.
        classes: Classes of the masks.
        prompt: Prompt of all images.
        resize: Resize rule for images that a model sees.

    Returns:
        The tables `images`, `masks`, `classes` and `warnings`. The category of an image is its split.

    Raises:
        UserError: The data set has problems, or no mask of a split shows one of the classes.
    """
    items = list(items)
    images = reader.images(item.image for item in items)
    rows, masks = list[Row](), list[Row]()
    empty: dict[str, list[Path]] = {}
    for item in items:
        if item.image not in images:
            continue  # a problem already
        if not item.mask.exists():
            reader.problem(item.mask, "not found. Restore it; each image needs a mask.")
            continue
        checked = reader.attempt(_read_mask, item, images[item.image], classes)
        if checked is None:
            continue
        png, is_labeled = checked
        if not is_labeled:
            empty.setdefault(item.split, []).append(item.mask)
        rows.append(image_row(item.id, reader.relative(item.image), images[item.image], item.split, prompt))
        masks.append({"id": item.id, "png": png})
    reader.raise_problems()
    for split, paths in empty.items():
        count = sum(row["category"] == split for row in rows)
        if len(paths) == count:
            shown = f"{classes.first}..{classes.end - 1}"
            raise UserError(f"{paths[0]}: like all masks of its part, shows none of the classes {shown}.")
        text = f"{len(paths)} of {count} masks show no class; their pixels are ignored"
        reader.warn(paths[0].parent, f"{text} (such as {paths[0].name})")
    named: list[Row] = [{"index": n, "name": name} for n, name in enumerate(classes.names, classes.first)]
    return Tables({"images": rows, "masks": masks, "classes": named, "warnings": [*reader.finish()]}, resize)


def _read_mask(item: MaskedImage, image: ImageFile, classes: Classes) -> tuple[bytes, bool]:
    """Return a mask as a PNG, and whether it shows any of the classes.

    Raises:
        UserError: The mask cannot be read, or does not fit the image or the classes.
    """
    if item.decode:
        mask = item.decode(item.mask)
        png = encode_mask(mask)
    else:
        png = read_bytes(item.mask)
        mask = decode_mask(png, item.mask)
    image.check_size(mask.shape[::-1], str(item.mask))
    unknown = mask[(mask >= classes.end) & (mask < VOID)]
    if unknown.size:
        text = f"has the index {unknown.max()}, but the classes end at {classes.end - 1}"
        raise UserError(f"{item.mask}: {text}. {classes.remedy}")
    return png, bool(np.any((mask >= classes.first) & (mask < classes.end)))
