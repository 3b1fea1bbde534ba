"""PF-Pascal (Ham et al., "Proposal Flow: Semantic Correspondences from Object Proposals", arXiv 1703.07144)."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.images import read_bytes
from ditf.data.pair_lists import PointPair, check_rows, keypoint_rows, outside, parse_coordinates
from ditf.data.reading import DatasetReader, read_csv
from ditf.datasets import pascal_voc
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

FOLDER = "PF-dataset-PASCAL"
TEST_PAIRS = 299
CLASSES = [name for name in pascal_voc.CLASSES if name != "background"]
COLUMNS = ("source_image", "target_image", "class", "XA", "YA", "XB", "YB")


class PFPascal(Dataset):
    """One list of pairs of PF-Pascal.

    Layout, as released at https://www.di.ens.fr/willow/research/proposalflow: the folder `PF-dataset-PASCAL` with
    `JPEGImages/<name>.jpg` and `Annotations/<class>/<name>.mat`. The lists `test_pairs_pf_pascal.csv` and
    `val_pairs_pf_pascal.csv`, as used since SCNet (Han et al., arXiv 1705.04043), are in that folder or beside it.

    The threshold is the longer side of the target image. Two other published rules are scored as well: "squashed image"
    measures errors in an image resized to a square, "annotated box" uses the longer side of the target's box.

    Attributes:
        root: The folder `PF-dataset-PASCAL`, or the one that contains it.
        split: test, with 299 pairs, or val.
        prompt: Prompt of all images; `{category}` becomes the class.
    """

    split: Literal["val", "test"] = "test"
    prompt: str = "a photo of a {category}"

    @property
    def release(self) -> Release | None:
        if self.split != "test":
            return None
        counts = {"pairs": TEST_PAIRS}
        images = 2 * TEST_PAIRS
        return Release(
            counts, images, (500, 375), "longer", categories=len(CLASSES), title="PF-Pascal test", rows=counts
        )

    def counts(self) -> dict[str, int]:
        reader = DatasetReader(self.root)
        try:
            return {"pairs": len(read_csv(self._list(reader, _folder(reader.root)), COLUMNS))}
        except UserError:
            return {"pairs": 0}

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        folder = _folder(reader.root)
        path = self._list(reader, folder)
        rows = read_csv(path, COLUMNS)
        check_rows(path, rows)
        parsed = {line: reader.attempt(_parse_row, f"{path}: line {line}", row) for line, row in rows.items()}
        pairs = {line: pair for line, pair in parsed.items() if pair}
        image_paths: dict[str, Path] = {}
        for line, (category, names, _) in pairs.items():
            for name in names:
                if image_path := reader.attempt(_locate_image, reader, folder, f"{path}: line {line}", name):
                    image_paths[f"{category}/{Path(name).stem}"] = image_path
        images = reader.images(image_paths.values())
        targets = dict.fromkeys(f"{category}/{Path(target).stem}" for category, (_, target), _ in pairs.values())
        boxes: dict[str, float] = {}
        for name in targets:
            annotation = reader.attempt(reader.locate, f"Annotations/{name}.mat", folder)
            boxes[name] = (reader.attempt(_longer_side, annotation) if annotation else None) or 0.0
        reader.raise_problems()

        pair_rows, rules, keypoints = list[Row](), list[Row](), list[Row]()
        for index, line in enumerate(rows):
            category, names, points = pairs[line]
            pair = f"{index:04d}"
            source, target = (f"{category}/{Path(name).stem}" for name in names)
            source_image, target_image = images[image_paths[source]], images[image_paths[target]]
            width, height = map(float, target_image.size)
            row: Row = {"pair": pair, "category": category, "source": source, "target": target}
            pair_rows.append(row | {"threshold": max(width, height)})
            rules.append({"pair": pair, "rule": "squashed image", "unit_x": width, "unit_y": height})
            rules.append({"pair": pair, "rule": "annotated box", "unit_x": boxes[target], "unit_y": boxes[target]})
            for x, y, *_ in outside(points, source_image):
                reader.warn(path, f"line {line}: ({x}, {y}) lies outside {names[0]}; the nearest point is matched")
            keypoints += keypoint_rows(pair, points, source_image)
        image_rows = []
        for name, image_path in sorted(image_paths.items()):
            category = name.partition("/")[0]
            prompt = self.prompt.replace("{category}", category)
            image_rows.append(image_row(name, reader.relative(image_path), images[image_path], category, prompt))
        tables = {"images": image_rows, "pairs": pair_rows, "rules": rules, "keypoints": keypoints}
        return Tables({**tables, "warnings": [*reader.finish()]}, "longer", "image")

    def _list(self, reader: DatasetReader, folder: Path) -> Path:
        """Return the list of pairs."""
        names = [f"{self.split}_pairs_pf_pascal.csv", f"{self.split}_pairs.csv"]
        for place in (folder, folder.parent):
            for name in names:
                path = reader.locate(name, place)
                if path.is_file():
                    return path
        raise UserError(f"{folder}: has no list {names[0]} or {names[1]}; is it PF-Pascal's folder? Correct `root`.")


def _folder(root: Path) -> Path:
    """Return the folder of the images and annotations."""
    return root if (root / "JPEGImages").is_dir() or root.name == FOLDER else root / FOLDER


def _parse_row(where: str, row: dict[str, str]) -> tuple[str, tuple[str, str], list[PointPair]]:
    """Return the class, both images and the points of a row of a list."""
    label = row["class"].strip()
    if not label.isdecimal() or not 1 <= int(label) <= len(CLASSES):
        raise UserError(f"{where}: class: {label!r} is not one of 1..{len(CLASSES)}. Restore the list.")
    columns = [parse_coordinates(where, name, row[name].split(";")) for name in COLUMNS[3:]]
    if len({len(column) for column in columns}) != 1:
        counts = ", ".join(str(len(column)) for column in columns)
        raise UserError(f"{where}: XA, YA, XB, YB: {counts} entries; the numbers must be equal. Restore the list.")
    return CLASSES[int(label) - 1], (row["source_image"], row["target_image"]), list(zip(*columns, strict=True))


def _locate_image(reader: DatasetReader, folder: Path, where: str, name: str) -> Path:
    """Return the path of an image that a list names relative to the parent of `PF-dataset-PASCAL`."""
    if not name:
        raise UserError(f"{where}: names no image. Restore the list.")
    return reader.locate(name.removeprefix(f"{FOLDER}/"), folder)


def _longer_side(path: Path) -> float:
    """Return the longer side of the box in an image's annotation, in pixels."""
    content = io.BytesIO(read_bytes(path))
    try:
        box = np.asarray(scipy.io.loadmat(content, variable_names=["bbox"])["bbox"], np.float64).ravel()
    except Exception as error:  # scipy raises exceptions of any kind for files that are no .mat files
        text = f"bbox: cannot be read ({' '.join(str(error).split()):.100}). Restore the file from PF-Pascal."
        raise UserError(f"{path}: {text}") from None
    if box.shape != (4,) or not np.isfinite(box).all() or max(box[2] - box[0], box[3] - box[1]) <= 0:
        raise UserError(f"{path}: bbox: not x1, y1, x2, y2 with an area. Restore the file from PF-Pascal.")
    return float(max(box[2] - box[0], box[3] - box[1]))
