"""How sure a metric is: bootstrap intervals, and paired tests of two results over the same images.

A metric is the mean, over its parts, of sums: `sum(numerator) / sum(denominator)` over its units. A unit is what is
resampled: a pair, a sequence, an image. PCK per point has one part, and correct keypoints over keypoints; mIoU has a
part per class. Methods: percentile bootstrap and sign-flip permutation (Efron and Tibshirani, 1993).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ditf.errors import UserError

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 95.0  # percent
SCHEMA = pa.schema(
    [
        ("descriptor", pa.string()),
        ("metric", pa.string()),
        ("unit", pa.string()),
        ("part", pa.string()),
        ("numerator", pa.float64()),
        ("denominator", pa.float64()),
    ]
)
Row = tuple[str, str, str, str, float, float]


def units_table(rows: Iterable[Row]) -> pa.Table:
    """A table of `SCHEMA`, which a task writes as `units.parquet`."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)


@dataclass(frozen=True)
class Sums:
    """A metric of one descriptor. units: their names, [u]. numerator, denominator: [u, parts]."""

    units: list[str]
    numerator: Floats
    denominator: Floats

    @classmethod
    def of(cls, table: pa.Table, descriptor: str, metric: str) -> "Sums":
        """From a table of `SCHEMA`. Raises `UserError` where it has no such metric."""
        chosen = pc.and_(pc.equal(table["descriptor"], descriptor), pc.equal(table["metric"], metric))
        rows = table.filter(chosen).combine_chunks()
        if not len(rows):
            raise UserError(f"{descriptor}: has no metric {metric!r} with an interval")
        units, unit = np.unique(rows["unit"].to_numpy(zero_copy_only=False), return_inverse=True)
        parts, part = np.unique(rows["part"].to_numpy(zero_copy_only=False), return_inverse=True)
        sums = np.zeros((2, len(units), len(parts)))
        for total, name in zip(sums, ("numerator", "denominator"), strict=True):
            np.add.at(total, (unit, part), rows[name].to_numpy())
        return cls([str(name) for name in units], sums[0], sums[1])

    def value(self, weights: Floats | None = None) -> Any:
        """The metric; with weights [n, u] of the units, [n] of them."""
        weights = np.ones((1, len(self.units))) if weights is None else weights
        return _ratio(weights @ self.numerator, weights @ self.denominator)


def interval(sums: Sums, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of a metric, 95 %."""
    values = sums.value(_resamples(len(sums.units), seed))
    low, high = np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """Of two results. value: second minus first. low, high: of its interval, 95 %. p: how often a difference as great
    arises where both are alike. units: their number."""

    value: float
    low: float
    high: float
    p: float
    units: int


def difference(first: Sums, second: Sums, seed: int = 0) -> Difference:
    """The paired difference of a metric over the units of both. Raises `UserError` where these differ."""
    if first.units != second.units or first.numerator.shape != second.numerator.shape:
        raise UserError("the two results are not of the same pairs, sequences or images; only such can be compared")
    weights = _resamples(len(first.units), seed)
    low, high = np.percentile(second.value(weights) - first.value(weights), [50 - LEVEL / 2, 50 + LEVEL / 2])
    value = float((second.value() - first.value())[0])
    swapped = np.random.default_rng(seed).integers(0, 2, (RESAMPLES, len(first.units))).astype(float)

    def mixed(one: Sums, other: Sums) -> Any:
        return _ratio(
            swapped @ one.numerator + (1 - swapped) @ other.numerator,
            swapped @ one.denominator + (1 - swapped) @ other.denominator,
        )

    as_great = np.abs(mixed(first, second) - mixed(second, first)) >= abs(value) - 1e-12
    return Difference(value, float(low), float(high), float((as_great.sum() + 1) / (RESAMPLES + 1)), len(first.units))


def _resamples(units: int, seed: int) -> Floats:
    """How often each unit is drawn, [resamples, units]."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), RESAMPLES).astype(float)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The mean over parts [n, parts] of ratios; parts without a denominator do not count."""
    there = denominator > 0
    ratios = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=there)
    found: Floats = ratios.sum(1) / np.maximum(there.sum(1), 1)
    return found
