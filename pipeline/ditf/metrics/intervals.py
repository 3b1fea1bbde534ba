"""How sure a metric is: bootstrap intervals, and paired tests of two results over the same images.

A metric is the mean, over its parts, of sums: `sum(numerator) / sum(denominator)` over its units. A unit is what is
resampled: a pair, a sequence, an image. PCK per point has one part, and correct keypoints over keypoints; mIoU has a
part per class. Methods: percentile bootstrap and sign-flip permutation (Efron and Tibshirani, 1993).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ditf.errors import UserError

Floats = NDArray[np.float64]

RESAMPLES, BATCH = 2000, 100
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
FILE = "units.parquet"  # in a task's folder of tables


def write_units(folder: Path, rows: Iterable[Row]) -> None:
    """Write what each unit adds to each metric, in the columns of `SCHEMA`, beside a task's other tables."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA), folder / FILE)


def read_units(folder: Path) -> dict[str, dict[str, "Sums"]]:
    """Each descriptor's metrics, from what `write_units` wrote; none where the task wrote nothing."""
    if not (folder / FILE).exists():
        return {}
    table = pq.read_table(folder / FILE)
    metrics: dict[str, dict[str, Sums]] = {}
    for descriptor in pc.unique(table["descriptor"]).to_pylist():
        own = table.filter(pc.equal(table["descriptor"], descriptor))
        names = pc.unique(own["metric"]).to_pylist()
        metrics[descriptor] = {name: Sums.of(own.filter(pc.equal(own["metric"], name))) for name in names}
    return metrics


@dataclass(frozen=True)
class Sums:
    """A metric of one descriptor. units: their names, [u]. numerator, denominator: [u, parts]."""

    units: list[str]
    numerator: Floats
    denominator: Floats

    @classmethod
    def of(cls, rows: pa.Table) -> "Sums":
        """From the rows of one metric of one descriptor, in the columns of `SCHEMA`."""
        units, unit = np.unique(rows["unit"].to_numpy(zero_copy_only=False), return_inverse=True)
        parts, part = np.unique(rows["part"].to_numpy(zero_copy_only=False), return_inverse=True)
        sums = np.zeros((2, len(units), len(parts)))
        for total, name in zip(sums, ("numerator", "denominator"), strict=True):
            np.add.at(total, (unit, part), rows[name].to_numpy())
        return cls([str(name) for name in units], sums[0], sums[1])

    def by_unit(self) -> dict[str, float]:
        """The metric of each unit alone."""
        return dict(zip(self.units, map(float, self.value(np.arange(len(self.units))[:, None])), strict=True))

    def value(self, units: Any = slice(None)) -> Any:
        """The metric over some units, given by their numbers [..., u]; of each row of numbers if there are several."""
        numerator, denominator = self.numerator[units].sum(-2), self.denominator[units].sum(-2)
        there = denominator > 0
        ratios = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=there)
        return ratios.sum(-1) / np.maximum(there.sum(-1), 1)


def interval(sums: Sums, seed: int = 0) -> tuple[float, float] | None:
    """The bootstrap interval of a metric, 95 %; None of a single unit."""
    return _bootstrap(lambda units, axis: sums.value(units), len(sums.units), seed)


@dataclass(frozen=True)
class Difference:
    """Of two results. value: second minus first. interval: as of `interval`. p: how often a difference as great arises
    where each unit's two results are swapped by chance. units: their number."""

    value: float
    interval: tuple[float, float] | None
    p: float
    units: int


def difference(first: Sums, second: Sums, seed: int = 0) -> Difference:
    """The paired difference of a metric over the units of both. Raises `UserError` where these differ."""
    from scipy.stats import permutation_test

    if first.units != second.units or first.numerator.shape != second.numerator.shape:
        raise UserError("the two results are not of the same pairs, sequences or images; only such can be compared")
    count, value = len(first.units), float(second.value() - first.value())
    if count < 2:
        return Difference(value, None, 1.0, count)
    both = Sums(
        first.units + second.units,
        np.concatenate([first.numerator, second.numerator]),
        np.concatenate([first.denominator, second.denominator]),
    )
    test = permutation_test(
        (np.arange(count), np.arange(count, 2 * count)),
        lambda one, other, axis: both.value(other) - both.value(one),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=seed,
    )
    between = _bootstrap(lambda units, axis: second.value(units) - first.value(units), count, seed)
    return Difference(value, between, float(test.pvalue), count)


def _bootstrap(metric: Callable[..., Any], units: int, seed: int) -> tuple[float, float] | None:
    from scipy.stats import bootstrap

    if units < 2:
        return None
    drawn = (np.arange(units),)
    resampled = bootstrap(
        drawn, metric, n_resamples=RESAMPLES, batch=BATCH, method="percentile", vectorized=True, rng=seed
    )
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)
