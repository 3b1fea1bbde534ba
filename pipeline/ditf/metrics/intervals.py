"""The uncertainty of metrics: bootstrap intervals, and paired tests of two results for the same images.

A *unit* is a pair, a sequence or an image, and is resampled as one. Each unit contributes a numerator and a denominator
to each *part* of a metric. The value of the metric is the mean over its parts of

    sum of the numerators of all units / sum of their denominators.

PCK per point has one part, whose numerator counts correct keypoints and whose denominator counts keypoints. mIoU has a
part for each class, with the pixels of intersection and union.

Methods: percentile bootstrap and sign-flip permutation (Efron and Tibshirani, 1993).
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

RESAMPLES = 2000
BATCH = 100  # resamples that are computed together
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
Contribution = tuple[str, str, str, str, float, float]  # a row, in the order of `SCHEMA`
FILE = "units.parquet"


def write_units(folder: Path, rows: Iterable[Contribution]) -> None:
    """Write the contribution of each unit to each metric to `units.parquet`.

    Args:
        folder: Folder of a task's tables.
        rows: Descriptor, metric, unit, part, numerator and denominator.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA), folder / FILE)


def read_units(folder: Path) -> dict[str, dict[str, "UnitSums"]]:
    """Read the contributions that `write_units` wrote.

    Args:
        folder: Folder of a task's tables.

    Returns:
        The contributions by descriptor and metric. Without a file, the mapping is empty.
    """
    if not (folder / FILE).exists():
        return {}
    table = pq.read_table(folder / FILE)
    metrics: dict[str, dict[str, UnitSums]] = {}
    for descriptor in pc.unique(table["descriptor"]).to_pylist():
        rows = table.filter(pc.equal(table["descriptor"], descriptor))
        names = pc.unique(rows["metric"]).to_pylist()
        metrics[descriptor] = {name: UnitSums.of(rows.filter(pc.equal(rows["metric"], name))) for name in names}
    return metrics


@dataclass(frozen=True)
class UnitSums:
    """Contributions of units to one metric of one descriptor.

    Attributes:
        units: Names of the units, [u].
        numerator: Numerator of each unit and part, [u, parts].
        denominator: Denominator of each unit and part, [u, parts].
    """

    units: list[str]
    numerator: Floats
    denominator: Floats

    @classmethod
    def of(cls, rows: pa.Table) -> "UnitSums":
        """Add up the contributions in a table.

        Args:
            rows: Rows of one metric of one descriptor, with the columns of `SCHEMA`.

        Returns:
            Contributions by unit and part.
        """
        units, unit_of_row = np.unique(rows["unit"].to_numpy(zero_copy_only=False), return_inverse=True)
        parts, part_of_row = np.unique(rows["part"].to_numpy(zero_copy_only=False), return_inverse=True)
        numerator, denominator = np.zeros((2, len(units), len(parts)))
        np.add.at(numerator, (unit_of_row, part_of_row), rows["numerator"].to_numpy())
        np.add.at(denominator, (unit_of_row, part_of_row), rows["denominator"].to_numpy())
        return cls([str(name) for name in units], numerator, denominator)

    def by_unit(self) -> dict[str, float]:
        """Return the metric of each unit alone, by its name."""
        return dict(zip(self.units, map(float, self.value(np.arange(len(self.units))[:, None])), strict=True))

    def value(self, units: Any = slice(None)) -> Any:
        """Compute the metric over some units. Parts whose denominator is 0 are left out of the mean.

        Args:
            units: Indices of units, [..., u]. By default, all units.

        Returns:
            The value of the metric, [...].
        """
        numerator, denominator = self.numerator[units].sum(-2), self.denominator[units].sum(-2)
        defined = denominator > 0
        ratios = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=defined)
        return ratios.sum(-1) / np.maximum(defined.sum(-1), 1)


def interval(contributions: UnitSums, seed: int = 0) -> tuple[float, float] | None:
    """Compute the 95 % bootstrap interval of a metric.

    Args:
        contributions: Contributions of the units.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound, or None for a single unit.
    """
    return _bootstrap(lambda units, axis: contributions.value(units), len(contributions.units), seed)


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between two results for the same units.

    Attributes:
        value: Second result minus first result.
        interval: 95 % bootstrap interval of the difference, or None for a single unit.
        p: Two-sided p-value of a paired permutation test.
        units: Number of units.
    """

    value: float
    interval: tuple[float, float] | None
    p: float
    units: int


def difference(first: UnitSums, second: UnitSums, seed: int = 0) -> Difference:
    """Compute the paired difference of a metric between two results.

    Args:
        first: Contributions of the units in the first result.
        second: Contributions of the same units in the second result.
        seed: Seed of the resampling.

    Returns:
        The difference with its interval and p-value.

    Raises:
        UserError: The two results have different units.
    """
    from scipy.stats import permutation_test  # here, because scipy takes long to import

    if first.units != second.units or first.numerator.shape != second.numerator.shape:
        raise UserError(
            "The two results are not for the same pairs, sequences or images. Choose results of the same data set."
        )
    count, value = len(first.units), float(second.value() - first.value())
    if count < 2:
        return Difference(value, None, 1.0, count)
    both = UnitSums(
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
    bounds = _bootstrap(lambda units, axis: second.value(units) - first.value(units), count, seed)
    return Difference(value, bounds, float(test.pvalue), count)


def _bootstrap(metric: Callable[..., Any], units: int, seed: int) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of a function of the indices of units, or None for a single unit."""
    from scipy.stats import bootstrap  # here, because scipy takes long to import

    if units < 2:
        return None
    resampled = bootstrap(
        (np.arange(units),), metric, n_resamples=RESAMPLES, batch=BATCH, method="percentile", vectorized=True, rng=seed
    )
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)
