"""Write a copy of SPair-71k on square canvases, for `ditf prepare canvas`.

Protocol: sd-dino (Zhang et al., arXiv 2305.15347) and GeoAware-SC (Zhang et al., arXiv 2311.17034) place each image in
the middle of a black square before they run a model.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditf.data.images import RGB, read_rgb
from ditf.data.reading import read_json
from ditf.errors import UserError
from ditf.files import exclusive, reporting_write_errors

SUFFIX = ".png"  # lossless, since the images are already resized

Size = tuple[int, int]
# Takes the content of a file and the side of the squares. Yields the fields of the new content; later ones win.
Change = Callable[[Mapping[str, Any], int], Iterator[tuple[str, Any]]]


def place_on_canvas(pixels: RGB, side: int) -> RGB:
    """Resize an image so that its longer side fills a square, and pad it with black on both sides.

    Args:
        pixels: RGB image, uint8 [height, width, 3].
        side: Side of the square in pixels.

    Returns:
        The square, uint8 [side, side, 3].
    """
    height, width = pixels.shape[:2]
    resized, (left, top) = _geometry((width, height), side)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(Image.fromarray(pixels).resize(resized, Image.Resampling.LANCZOS), (left, top))
    return np.asarray(canvas)


def point_on_canvas(point: tuple[float, float], size: Size, side: int) -> list[float]:
    """Return where a point of an image lies on the canvas, without a half-pixel shift, as the published programs do.

    Args:
        point: x and y in pixels of the image.
        size: Width and height of the image in pixels.
        side: Side of the square in pixels.
    """
    _, offset = _geometry(size, side)
    scale = side / max(size)
    return [coordinate * scale + shift for coordinate, shift in zip(point, offset, strict=True)]


def _geometry(size: Size, side: int) -> tuple[Size, Size]:
    """Return width and height of the resized image, and its left and its top on the canvas."""
    width, height = (int(np.around(each * side / max(size))) for each in size)
    return (width, height), ((side - width) // 2, (side - height) // 2)


def prepare_canvas(root: Path, target: Path, side: int) -> int:
    """Write a copy of SPair-71k in which every image is a square canvas and annotations are moved along.

    Args:
        root: Folder of SPair-71k.
        target: Folder to write. It must not exist.
        side: Side of the squares in pixels.

    Returns:
        The number of images.

    Raises:
        UserError: The data set cannot be read, or the folder exists or cannot be written.
    """
    images = sorted((root / "JPEGImages").glob("*/*.[jJ][pP]*[gG]"))
    if not images:
        raise UserError(f"{root / 'JPEGImages'}: has no images; is {root} SPair-71k's folder? Give that folder.")
    with exclusive(target), reporting_write_errors(target):
        if target.exists():
            raise UserError(f"{target}: exists already. Remove it, or give another folder.")
        work = target.with_name(f".{target.name}.partial")
        shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed
        try:
            _write_copy(root, images, work, side)
            work.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return len(images)


def _write_copy(root: Path, images: Sequence[Path], folder: Path, side: int) -> None:
    """Write the canvases of all images, and the changed annotations."""
    for path in tqdm(images, "images", unit="image", delay=1):
        canvas = place_on_canvas(read_rgb(path), side)
        Image.fromarray(canvas).save(_place(folder, path.relative_to(root).with_suffix(SUFFIX)))
    for pattern, change in CHANGES.items():
        for path in tqdm(sorted(root.glob(pattern)), pattern.partition("/")[0], unit="file", delay=1):
            text = json.dumps(_changed(path, change, side))
            _place(folder, path.relative_to(root)).write_text(text, encoding="utf-8")


def _place(folder: Path, name: Path) -> Path:
    """Return the path of a file to write, and make its folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _png(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(SUFFIX))


def _changed(path: Path, change: Change, side: int) -> Any:
    """Return the new content of a file."""
    try:
        return dict(change(read_json(path), side))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not an annotation of SPair-71k ({error!r}). Restore the file.") from None


def _move_pair(pair: Mapping[str, Any], side: int) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a file of `PairAnnotation`."""
    yield from pair.items()
    for prefix in ("src", "trg"):
        width, height, *_ = pair[f"{prefix}_imsize"]
        yield f"{prefix}_imname", _png(pair[f"{prefix}_imname"])
        yield f"{prefix}_imsize", [side, side, 3]
        yield f"{prefix}_kps", [point_on_canvas((x, y), (width, height), side) for x, y in pair[f"{prefix}_kps"]]
        yield f"{prefix}_bndbox", _move_box(pair[f"{prefix}_bndbox"], (width, height), side)


def _move_image(image: Mapping[str, Any], side: int) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a file of `ImageAnnotation`."""
    yield from image.items()
    size = (image["image_width"], image["image_height"])
    yield "filename", _png(image["filename"])
    yield "image_width", side
    yield "image_height", side
    yield "bndbox", _move_box(image["bndbox"], size, side)
    yield "kps", {number: point and point_on_canvas(tuple(point), size, side) for number, point in image["kps"].items()}


def _rename_captions(captions: Mapping[str, Any], _: int) -> Iterator[tuple[str, Any]]:
    """Yield the captions under the names of the canvases."""
    for name, text in captions.items():
        yield _png(name), text


def _move_box(box: list[float], size: Size, side: int) -> list[float]:
    x1, y1, x2, y2 = box
    return [*point_on_canvas((x1, y1), size, side), *point_on_canvas((x2, y2), size, side)]


# What changes in which files.
CHANGES: dict[str, Change] = {
    "PairAnnotation/*/*.json": _move_pair,
    "ImageAnnotation/*/*.json": _move_image,
    "captions.json": _rename_captions,
}
