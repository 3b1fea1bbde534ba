"""Rows of the CSV lists of pairs that PF-Pascal and PF-Willow have."""

import math
from collections.abc import Collection, Iterable
from pathlib import Path

from ditf.data.catalog import Row, keypoint_row
from ditf.data.images import ImageFile
from ditf.errors import UserError

PointPair = tuple[float, ...]  # x and y in the source, x and y in the target


def check_rows(path: Path, rows: Collection[int]) -> None:
    """Raise `UserError` if a list has no rows."""
    if not rows:
        raise UserError(f"{path}: no pairs. Restore the list.")


def parse_coordinates(where: str, column: str, values: Iterable[str]) -> list[float]:
    """Parse the coordinates of a row.

    Args:
        where: File and line, for errors.
        column: Name of the column, for errors.
        values: Texts of the numbers.

    Returns:
        The numbers.

    Raises:
        UserError: A text is not a finite number.
    """
    coordinates = []
    for text in values:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{where}: {column}: {text!r} is not a coordinate. Restore the list.")
        coordinates.append(number)
    return coordinates


def outside(points: Iterable[PointPair], source: ImageFile) -> list[PointPair]:
    """Return the points that lie outside the source image."""
    return [point for point in points if not (0 <= point[0] < source.width and 0 <= point[1] < source.height)]


def keypoint_rows(pair: str, points: Iterable[PointPair], source: ImageFile) -> list[Row]:
    """Return the rows of a pair in the table `keypoints`.

    Args:
        pair: Name of the pair.
        points: Points (x, y) in the source image, followed by (x, y) in the target image.
        source: Source image.
    """
    return [keypoint_row(pair, n, "", point[:2], point[2:], source.size) for n, point in enumerate(points)]
