"""PF-Willow (Ham et al., arXiv 1511.05065) in its published layout."""

import csv
import functools
import re
from pathlib import Path

from ditf.catalog import Problems, Tables, image_row, inside, inspect_images
from ditf.datasets import Dataset
from ditf.datasets.parts.points import read_points
from ditf.errors import UserError

POINTS = 10
PREFIX = "PF-dataset/"
COLUMNS = ("imageA", "imageB", *(f"{axis}{n}" for axis in ("XA", "YA", "XB", "YB") for n in range(1, POINTS + 1)))
Line = tuple[tuple[str, str], list[tuple[float, ...]]]


class PFWillow(Dataset):
    """The pairs of PF-Willow, 10 points each.

    root: the folder PF-WILLOW. prompt: `{category}` is the class without what stands in parentheses. The threshold is
    the longer extent of the target's points; "squashed box" is the same in an image squashed to a square.
    """

    prompt: str = "a photo of a {category}"

    def read(self) -> Tables:
        root = Path(self.root)
        path = root / "test_pairs.csv"
        problems = Problems()
        try:
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                reader = csv.DictReader(file)
                fields, lines = reader.fieldnames or (), list(reader)
        except FileNotFoundError:
            raise UserError(f"{path}: not found; is {root} PF-Willow's folder (`root`)?") from None
        if missing := [name for name in COLUMNS if name not in fields]:
            raise UserError(f"{path}: has no column {missing[0]}")
        if not lines:
            raise UserError(f"{path}: no pairs")
        found = {number: problems.take(_read_line, (path, number, line)) for number, line in enumerate(lines)}
        pairs: dict[int, Line] = {number: pair for number, pair in found.items() if pair}
        pictures: dict[str, Path] = {}
        for names, _ in pairs.values():
            for name in names:
                place = problems.take(functools.partial(inside, root), name)
                pictures |= {name: place} if place else {}
        images = inspect_images(dict.fromkeys(pictures.values()), problems)
        problems.raise_any()

        rows, rules, keypoints = [], [], []
        for number, ((source, target), points) in pairs.items():
            pair = f"{number:04d}"
            seen, size = images[pictures[source]], images[pictures[target]]
            across, down = (max(p[i] for p in points) - min(p[i] for p in points) for i in (2, 3))
            category = Path(target).parent.as_posix()
            row = {"pair": pair, "category": category, "source": _name(source), "target": _name(target)}
            rows.append(row | {"threshold": max(across, down)})
            squashed = max(across / size.width, down / size.height)
            unit = {"unit_x": squashed * size.width, "unit_y": squashed * size.height}
            rules.append({"pair": pair, "rule": "squashed box", **unit})
            for keypoint, (xa, ya, xb, yb) in enumerate(points):
                if not (0 <= xa < seen.width and 0 <= ya < seen.height):
                    what = f"({xa}, {ya}) lies outside {source}; the nearest point is matched"
                    problems.warn(path, f"line {number + 2}: {what}")
                point = {"pair": pair, "keypoint": keypoint, "name": "", "target_x": xb, "target_y": yb}
                point |= {"source_x": min(max(xa, 0.0), seen.width - 1.0)}
                keypoints.append(point | {"source_y": min(max(ya, 0.0), seen.height - 1.0)})
        shown = []
        for name, place in sorted(pictures.items()):
            category = Path(name).parent.as_posix()
            prompt = self.prompt.replace("{category}", re.sub(r"\(.*\)", "", category))
            shown.append(image_row(_name(name), name, images[place], category, prompt))
        tables = {"images": shown, "pairs": rows, "rules": rules, "keypoints": keypoints, "warnings": problems.warnings}
        return Tables(tables, "longer", "extent of the points")


def _read_line(given: tuple[Path, int, dict[str, str]]) -> Line:
    """Both images, by class and file name, and the points (xa, ya, xb, yb) of a line of the list."""
    path, number, line = given
    where = f"{path}: line {number + 2}"
    names = []
    for column in COLUMNS[:2]:
        name = (line[column] or "").removeprefix(PREFIX)
        if name.count("/") != 1:
            raise UserError(f"{where}: {column}: {line[column]!r} is not a class and a file")
        names.append(name)
    columns = []
    for axis in ("XA", "YA", "XB", "YB"):
        values = (line[f"{axis}{n}"] or "" for n in range(1, POINTS + 1))
        columns.append(read_points(where, axis, values))
    if all(max(column) == min(column) for column in columns[2:]):
        raise UserError(f"{where}: XB, YB: all points of the target are one, so nothing could be scored")
    return (names[0], names[1]), list(zip(*columns, strict=True))


def _name(file: str) -> str:
    """The id of an image, such as "car(G)/Cars_006a"."""
    return Path(file).with_suffix("").as_posix()
