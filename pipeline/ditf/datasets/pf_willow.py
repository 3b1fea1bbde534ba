"""PF-Willow (Ham et al., arXiv 1511.05065) in its published layout."""

import re
from pathlib import Path

from ditf.data.catalog import Problems, Tables, image_row, inside, inspect_images
from ditf.data.point_lists import Point, keypoint_rows, outside, read_list, read_points
from ditf.datasets.base import Dataset
from ditf.errors import UserError

POINTS = 10
PREFIX = "PF-dataset/"
COLUMNS = ("imageA", "imageB", *(f"{axis}{n}" for axis in ("XA", "YA", "XB", "YB") for n in range(1, POINTS + 1)))


class PFWillow(Dataset):
    """The pairs of PF-Willow, 10 points each.

    root: the folder PF-WILLOW. prompt: `{category}` is the class without what stands in parentheses. The threshold is
    the longer extent of the target's points; "squashed box" is the same in an image squashed to a square.
    """

    prompt: str = "a photo of a {category}"

    def read(self) -> Tables:
        root = Path(self.root)
        path = root / "test_pairs.csv"
        if not path.is_file():
            raise UserError(f"{path}: not found; is {root} PF-Willow's folder (`root`)?")
        lines = read_list(path, COLUMNS)
        problems = Problems()
        found = {n: problems.take(_read_line, f"{path}: line {n}", line) for n, line in lines.items()}
        pairs = {number: pair for number, pair in found.items() if pair}
        pictures: dict[str, Path] = {}
        for names, _ in pairs.values():
            for name in names:
                place = problems.take(inside, root, name)
                pictures |= {name: place} if place else {}
        images = inspect_images(dict.fromkeys(pictures.values()), problems)
        problems.raise_any()

        rows, rules, keypoints = [], [], []
        for number, ((source, target), points) in pairs.items():
            pair = f"{number - 2:04d}"
            seen, size = images[pictures[source]], images[pictures[target]]
            across, down = (max(p[i] for p in points) - min(p[i] for p in points) for i in (2, 3))
            category = Path(target).parent.as_posix()
            row = {"pair": pair, "category": category, "source": _name(source), "target": _name(target)}
            rows.append(row | {"threshold": max(across, down)})
            squashed = max(across / size.width, down / size.height)
            unit = {"unit_x": squashed * size.width, "unit_y": squashed * size.height}
            rules.append({"pair": pair, "rule": "squashed box", **unit})
            for x, y, *_ in outside(points, seen):
                what = f"({x}, {y}) lies outside {source}; the nearest point is matched"
                problems.warn(path, f"line {number}: {what}")
            keypoints += keypoint_rows(pair, points, seen)
        shown = []
        for name, place in sorted(pictures.items()):
            category = Path(name).parent.as_posix()
            prompt = self.prompt.replace("{category}", re.sub(r"\(.*\)", "", category))
            shown.append(image_row(_name(name), name, images[place], category, prompt))
        tables = {"images": shown, "pairs": rows, "rules": rules, "keypoints": keypoints, "warnings": problems.warnings}
        return Tables(tables, "longer", "extent of the points")


def _read_line(where: str, line: dict[str, str]) -> tuple[tuple[str, str], list[Point]]:
    """Both images, by class and file name, and the points of a line of the list."""
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
