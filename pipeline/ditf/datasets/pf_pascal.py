"""PF-Pascal (Ham et al., arXiv 1703.07144) in its published layout, with the lists of pairs that are in use."""

import csv
import functools
import io
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from ditf.catalog import Problems, Tables, image_row, inside, inspect_images
from ditf.datasets import Dataset
from ditf.datasets.parts.points import read_points
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
        problems = Problems()
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path}: has no column {missing[0]}; the columns are {', '.join(COLUMNS)}")
            lines = list(reader)
        found = {number: problems.take(_read_line, (path, number, line)) for number, line in enumerate(lines)}
        pairs = {number: pair for number, pair in found.items() if pair}
        if not lines:
            problems.add(path, "no pairs")

        pictures: dict[str, Path] = {}
        for number, (category, names, _) in pairs.items():
            for name in names:
                work = functools.partial(_picture, folder)
                found_path = problems.take(work, (f"{path}: line {number + 2}", name))
                if found_path:
                    pictures[f"{category}/{Path(name).stem}"] = found_path
        images = inspect_images(dict.fromkeys(pictures.values()), problems)
        targets = dict.fromkeys(f"{category}/{Path(target).stem}" for category, (_, target), _ in pairs.values())
        sides = {name: problems.take(_longer_side, folder / "Annotations" / f"{name}.mat") for name in targets}
        boxes = {name: side for name, side in sides.items() if side}
        problems.raise_any()

        rows, rules, keypoints = [], [], []
        for number, (category, names, points) in pairs.items():
            pair = f"{number:04d}"
            source, target = (f"{category}/{Path(name).stem}" for name in names)
            seen, size = images[pictures[source]], images[pictures[target]]
            row = {"pair": pair, "category": category, "source": source, "target": target}
            rows.append(row | {"threshold": float(max(size.width, size.height))})
            rules.append(
                {"pair": pair, "rule": "squashed image", "unit_x": float(size.width), "unit_y": float(size.height)}
            )
            rules.append({"pair": pair, "rule": "annotated box", "unit_x": boxes[target], "unit_y": boxes[target]})
            for keypoint, (xa, ya, xb, yb) in enumerate(points):
                if not (0 <= xa < seen.width and 0 <= ya < seen.height):
                    problems.warn(
                        path, f"line {number + 2}: ({xa}, {ya}) lies outside {names[0]}; the nearest point is matched"
                    )
                point = {"pair": pair, "keypoint": keypoint, "name": "", "target_x": xb, "target_y": yb}
                point |= {"source_x": min(max(xa, 0.0), seen.width - 1.0)}
                keypoints.append(point | {"source_y": min(max(ya, 0.0), seen.height - 1.0)})
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


def _read_line(given: tuple[Path, int, dict[str, str]]) -> tuple[str, tuple[str, str], list[tuple[float, ...]]]:
    """The class, both images, and the points (xa, ya, xb, yb) of a line of a list."""
    path, number, line = given
    where = f"{path}: line {number + 2}"
    label = line["class"] or ""
    if not label.isdecimal() or not 1 <= int(label) <= len(CLASSES):
        raise UserError(f"{where}: class: {label!r} is not one of 1..{len(CLASSES)}")
    columns = [read_points(where, name, (line[name] or "").split(";")) for name in COLUMNS[3:]]
    if len({len(column) for column in columns}) != 1:
        counts = ", ".join(str(len(column)) for column in columns)
        raise UserError(f"{where}: XA, YA, XB, YB: {counts} entries; the numbers must be equal")
    names = (line["source_image"] or "", line["target_image"] or "")
    return CLASSES[int(label) - 1], names, list(zip(*columns, strict=True))


def _picture(folder: Path, given: tuple[str, str]) -> Path:
    """The path of an image that a list names from the parent of PF-dataset-PASCAL."""
    where, name = given
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
