"""What the data sets of proposal flow share: lists of pairs as CSV, each line with its points."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from ditf.catalog import Problems, Row, keypoint_row
from ditf.errors import UserError
from ditf.images import ImageFile

Point = tuple[float, ...]  # x and y in the source, x and y in the target


def read_list(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a list, by column. Raises `UserError` where there is none, or a column is missing."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        fields, lines = reader.fieldnames or (), list(reader)
    if missing := [name for name in columns if name not in fields]:
        raise UserError(f"{path}: has no column {missing[0]}; it needs {', '.join(columns)}")
    if not lines:
        raise UserError(f"{path}: no pairs")
    return lines


def read_points(where: str, column: str, values: Iterable[str]) -> list[float]:
    """Coordinates of a line. Raises `UserError`, which begins with `where`, for one that is not a finite number."""
    found = []
    for text in values:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{where}: {column}: {text!r} is not a coordinate")
        found.append(number)
    return found


def keypoint_rows(pair: str, points: Sequence[Point], source: ImageFile, where: str, problems: Problems) -> list[Row]:
    """Rows of the table keypoints; a point outside the source becomes a warning, which begins with `where`."""
    size = source.width, source.height
    for x, y, *_ in points:
        if not (0 <= x < size[0] and 0 <= y < size[1]):
            file, _, line = where.rpartition(": ")
            problems.warn(file, f"{line}: ({x}, {y}) lies outside the source image; the nearest point is matched")
    return [keypoint_row(pair, n, "", point[:2], point[2:], size) for n, point in enumerate(points)]
