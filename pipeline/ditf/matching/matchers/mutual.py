"""Mutual nearest neighbours: only matches that lead back to their source point have a positive confidence."""

from typing import ClassVar

import numpy as np
from pydantic import Field, FiniteFloat

from ditf.matching.matchers.base import Floats
from ditf.matching.matchers.nearest import Nearest


class Mutual(Nearest):
    """Find nearest neighbours. Matches that are not mutual, or not similar enough, have confidence 0.

    Attributes:
        floor: Least cosine similarity of a confident match.
        within: Greatest distance in tokens between a source point and its match matched back.
    """

    check_cycle: ClassVar[bool] = True

    floor: FiniteFloat = Field(default=0.0, ge=-1, le=1)
    within: FiniteFloat = Field(default=1.0, ge=0)

    def confidence(self, similarity: Floats, cycle_distance: Floats) -> Floats:
        confident = (cycle_distance <= self.within) & (similarity >= self.floor)
        return np.where(confident, np.maximum(similarity, 0), 0.0)
