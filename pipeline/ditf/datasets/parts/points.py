"""Coordinates in the lists of proposal-flow data sets."""

import math
from collections.abc import Iterable

from ditf.errors import UserError


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
