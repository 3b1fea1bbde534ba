"""Nearest neighbours, ranked by cycle consistency."""

from typing import ClassVar

from ditf.matching.matchers.base import Floats
from ditf.matching.matchers.nearest import Nearest


class Cycle(Nearest):
    """Find nearest neighbours and match them back. A match that returns close to its start is confident."""

    check_cycle: ClassVar[bool] = True

    def confidence(self, similarity: Floats, cycle_distance: Floats) -> Floats:
        return -cycle_distance
