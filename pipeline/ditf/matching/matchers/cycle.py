"""Nearest neighbours with cycle consistency: the nearer to its start a match leads back, the surer it is."""

from typing import ClassVar

from ditf.matching.matchers.base import Floats
from ditf.matching.matchers.nearest import Nearest


class Cycle(Nearest):
    """Nearest neighbours; the confidence is less by each token between a point and where its match is matched back."""

    back: ClassVar[bool] = True

    def confidence(self, similarity: Floats, distance: Floats) -> Floats:
        return -distance
