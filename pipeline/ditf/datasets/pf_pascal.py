"""PF-Pascal (Ham et al., arXiv 1703.07144) in its published layout, with the lists of pairs that are in use."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from ditf.data.catalog import Problems, Tables, image_row, inside, inspect_images
from ditf.data.point_lists import Point, keypoint_rows, outside, read_list, read_points
from ditf.datasets.base import Dataset
from ditf.errors import UserError

FOLDER = "PF-dataset-PASCAL"
CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
COLUMNS = ("source_image", "target_image", "class", "XA", "YA", "XB", "YB")


class PFPascal(Dataset):
    """One list of pairs of PF-Pascal.

    root: the folder PF-dataset-PASCAL, or the one that holds it. split: test (299 pairs) or val. prompt: `{category}`
    is replaced. The threshold is the target image's longer side; two other published rules are scored beside it:
    "squashed image" (errors in an image squashed to a square) and "annotated box" (the longer side of the target's).
    """

    split: Literal["val", "test"] = "test"
    prompt: str = "a photo of a {category}"

    def read(self) -> Tables:
        root = Path(self.root)
        folder = root if (root / "JPEGImages").is_dir() or root.name == FOLDER else root / FOLDER
        path = self._list(folder)
        lines = read_list(path, COLUMNS)
        problems = Problems()
        found = {n: problems.take(_read_line, f"{path}: line {n}", line) for n, line in lines.items()}
        pairs = {number: pair for number, pair in found.items() if pair}

        pictures: dict[str, Path] = {}
        for number, (category, names, _) in pairs.items():
            for name in names:
                if place := problems.take(_picture, folder, f"{path}: line {number}", name):
                    pictures[f"{category}/{Path(name).stem}"] = place
        images = inspect_images(dict.fromkeys(pictures.values()), problems)
        targets = dict.fromkeys(f"{category}/{Path(target).stem}" for category, (_, target), _ in pairs.values())
        sides = {name: problems.take(_longer_side, folder / "Annotations" / f"{name}.mat") for name in targets}
        boxes = {name: side for name, side in sides.items() if side}
        problems.raise_any()

        rows, rules, keypoints = [], [], []
        for number, (category, names, points) in pairs.items():
            pair = f"{number - 2:04d}"
            source, target = (f"{category}/{Path(name).stem}" for name in names)
            seen, size = images[pictures[source]], images[pictures[target]]
            row = {"pair": pair, "category": category, "source": source, "target": target}
            rows.append(row | {"threshold": float(max(size.width, size.height))})
            rules.append(
                {"pair": pair, "rule": "squashed image", "unit_x": float(size.width), "unit_y": float(size.height)}
            )
            rules.append({"pair": pair, "rule": "annotated box", "unit_x": boxes[target], "unit_y": boxes[target]})
            for x, y, *_ in outside(points, seen):
                what = f"({x}, {y}) lies outside {names[0]}; the nearest point is matched"
                problems.warn(path, f"line {number}: {what}")
            keypoints += keypoint_rows(pair, points, seen)
        shown = []
        for name, place in sorted(pictures.items()):
            category = name.partition("/")[0]
            prompt = self.prompt.replace("{category}", category)
            shown.append(image_row(name, place.relative_to(root).as_posix(), images[place], category, prompt))
        tables = {"images": shown, "pairs": rows, "rules": rules, "keypoints": keypoints, "warnings": problems.warnings}
        return Tables(tables, "longer", "image")

    def _list(self, folder: Path) -> Path:
        names = [f"{self.split}_pairs_pf_pascal.csv", f"{self.split}_pairs.csv"]
        for place in (folder, folder.parent):
            for name in names:
                if (place / name).is_file():
                    return place / name
        raise UserError(f"{folder}: has no list {names[0]} or {names[1]}; is it PF-Pascal's folder (`root`)?")


def _read_line(where: str, line: dict[str, str]) -> tuple[str, tuple[str, str], list[Point]]:
    """The class, both images and the points of a line of a list."""
    label = line["class"] or ""
    if not label.isdecimal() or not 1 <= int(label) <= len(CLASSES):
        raise UserError(f"{where}: class: {label!r} is not one of 1..{len(CLASSES)}")
    columns = [read_points(where, name, (line[name] or "").split(";")) for name in COLUMNS[3:]]
    if len({len(column) for column in columns}) != 1:
        counts = ", ".join(str(len(column)) for column in columns)
        raise UserError(f"{where}: XA, YA, XB, YB: {counts} entries; the numbers must be equal")
    names = (line["source_image"] or "", line["target_image"] or "")
    return CLASSES[int(label) - 1], names, list(zip(*columns, strict=True))


def _picture(folder: Path, where: str, name: str) -> Path:
    """The path of an image that a list names from the parent of PF-dataset-PASCAL."""
    if not name:
        raise UserError(f"{where}: names no image")
    return inside(folder, name.removeprefix(f"{FOLDER}/"))


def _longer_side(path: Path) -> float:
    """The longer side of the box in an image's annotation."""
    try:
        content = io.BytesIO(path.read_bytes())
        box = np.asarray(scipy.io.loadmat(content, variable_names=["bbox"])["bbox"], np.float64).ravel()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; restore it from PF-Pascal") from None
    except Exception as error:  # of whatever kind scipy's reader raises: files come from anywhere
        raise UserError(f"{path}: bbox: cannot be read ({' '.join(str(error).split()):.100})") from None
    if box.shape != (4,) or not np.isfinite(box).all() or max(box[2] - box[0], box[3] - box[1]) <= 0:
        raise UserError(f"{path}: bbox: not x1, y1, x2, y2 with an area")
    return float(max(box[2] - box[0], box[3] - box[1]))
