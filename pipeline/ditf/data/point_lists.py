"""What the data sets of proposal flow share: lists of pairs as CSV, each line with its points."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from ditf.data.catalog import Row, keypoint_row
from ditf.data.images import ImageFile
from ditf.errors import UserError

Point = tuple[float, ...]  # x and y in the source, x and y in the target


def read_list(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """The lines of a list below its head, by number. Raises `UserError` for none, or where a column is missing."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        fields, lines = reader.fieldnames or (), list(reader)
    if missing := [name for name in columns if name not in fields]:
        raise UserError(f"{path}: has no column {missing[0]}; restore the list as it was published")
    if not lines:
        raise UserError(f"{path}: no pairs")
    return dict(enumerate(lines, 2))


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


def outside(points: Iterable[Point], source: ImageFile) -> list[Point]:
    """The points that lie outside the source."""
    return [p for p in points if not (0 <= p[0] < source.width and 0 <= p[1] < source.height)]


def keypoint_rows(pair: str, points: Iterable[Point], source: ImageFile) -> list[Row]:
    """Rows of the table keypoints."""
    size = (source.width, source.height)
    return [keypoint_row(pair, n, "", point[:2], point[2:], size) for n, point in enumerate(points)]
