"""Nearest neighbours that are mutual: matched back, a match leads to where it came from."""

from typing import ClassVar

import numpy as np
from pydantic import Field, FiniteFloat

from ditf.matching.matchers.base import Floats
from ditf.matching.matchers.nearest import Nearest


class Mutual(Nearest):
    """Nearest neighbours; those that are not mutual, or less similar than `floor`, have confidence 0.

    floor: the least cosine similarity. within: tokens from a point to where its match is matched back, at most.
    """

    back: ClassVar[bool] = True

    floor: FiniteFloat = Field(default=0.0, ge=-1, le=1)
    within: FiniteFloat = Field(default=1.0, ge=0)

    def confidence(self, similarity: Floats, distance: Floats) -> Floats:
        return np.where((distance <= self.within) & (similarity >= self.floor), np.maximum(similarity, 0), 0.0)
