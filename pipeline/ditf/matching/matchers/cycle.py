"""Nearest neighbours with a confidence from cycle consistency."""

from typing import ClassVar

from ditf.matching.matchers.base import Floats
from ditf.matching.matchers.nearest import Nearest


class Cycle(Nearest):
    """Find nearest neighbours and match them back. Confidence decreases with the distance to the source point."""

    check_cycle: ClassVar[bool] = True

    def confidence(self, similarity: Floats, cycle_distance: Floats) -> Floats:
        return -cycle_distance
