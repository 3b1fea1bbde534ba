"""Leaderboards: the results of a benchmark with intervals, published results and paired tests."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry
from ditf.metrics.display import in_percent, p_text
from ditf.metrics.intervals import UnitSums, difference, interval, read_units
from ditf.metrics.published import comparable_figures
from ditf.tasks.base import Task

Row = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A metric in percent.

    Attributes:
        value: The metric.
        interval: Its 95 % interval, or None if it is not known.
    """

    value: float
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, metric: str, value: float, interval: tuple[float, float] | None) -> "Estimate":
        """Return the estimate of a metric in percent.

        Args:
            metric: Name of the metric, which tells whether it is stored in percent or as a fraction.
            value: Stored value.
            interval: Stored 95 % interval, or None if it is not known.
        """
        low, high = interval or (0.0, 0.0)
        bounds = (in_percent(metric, low), in_percent(metric, high)) if interval else None
        return cls(in_percent(metric, value), bounds)

    def __str__(self) -> str:
        shown = f"{self.value:.2f}"
        return shown + (" [{:.2f}, {:.2f}]".format(*self.interval) if self.interval else "")


@dataclass(frozen=True)
class Leaderboard:
    """The results of a benchmark.

    Attributes:
        title: Task and data set.
        headline: Metric that ranks results.
        rows: A row for every descriptor of every task and for every published result, the best first.
        differences: A row for each pair of results that have scores for the same units.
    """

    title: str
    headline: str
    rows: list[Row]
    differences: list[Row]


def leaderboards(params: Params, results: Path) -> list[Leaderboard]:
    """Return a leaderboard for each benchmark. Tasks with equal type, data set, split and folder share a benchmark.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks. Tasks without results are left out.
    """
    benchmarks: dict[tuple[str, ...], list[str]] = {}
    for name, task in params.tasks.items():
        path = results / name / "metrics.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")):
            dataset = params.datasets[task.dataset]
            split = str(getattr(dataset, "split", ""))
            benchmarks.setdefault((task.type, dataset.type, split, str(dataset.root)), []).append(name)
    return [_leaderboard(params, results, key, names) for key, names in benchmarks.items()]


def _leaderboard(params: Params, results: Path, key: tuple[str, ...], names: list[str]) -> Leaderboard:
    """Return the leaderboard of one benchmark.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks.
        key: Type of the tasks, type of the data set, its split and its folder.
        names: Names of the tasks.
    """
    kind, dataset, split, root = key
    headline, rows = params.tasks[names[0]].headline, []
    scores: dict[str, UnitSums] = {}
    for name in names:
        metrics = json.loads((results / name / "metrics.json").read_text(encoding="utf-8"))
        units = read_units(results / name / "tables")
        for descriptor, values in metrics.items():
            row: Row = {
                "result": f"{name}/{descriptor}",
                **settings(params, params.tasks[name]),
                "descriptor": descriptor,
            }
            for metric in sorted(values, key=lambda name: name != headline):
                sums = units.get(descriptor, {}).get(metric)
                row[metric] = Estimate.of(metric, values[metric], interval(sums) if sums else None)
                if sums and metric == headline:
                    scores[row["result"]] = sums
                    row["units"] = len(sums.units)
            rows.append(row)
    # The official split is recognized by its size. Published results of other data are not comparable.
    sizes = {row.get("units") for row in rows}
    rows += [
        {
            "result": f"published, {figure.source}",
            "model": figure.model,
            "descriptor": figure.descriptor,
            figure.metric: Estimate(figure.value),
        }
        for figure in comparable_figures(kind, dataset, split, sizes)
        if figure.metric == headline
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    rows.sort(key=lambda row: -row[headline].value if row[headline] else 0.0)
    title = f"{kind.rpartition('.')[2]} on {dataset.rpartition('.')[2]}{f', split {split}' if split else ''} ({root})"
    return Leaderboard(title, headline, rows, _differences(scores, headline))


def settings(params: Params, task: Task) -> Row:
    """Return the settings behind a result: model, block, timestep, ensemble size and image size.

    For a fusion, each value names both halves.

    Args:
        params: Parameters of the project.
        task: Task that has the result.
    """
    fusion = params.fusions.get(task.features)
    names = [fusion.first.features, fusion.second.features] if fusion else [task.features]
    entries: list[FeaturesEntry] = [params.features[name] for name in names]

    def joined(values: list[Any]) -> Any:
        shown = ["-" if value is None else value for value in values]
        return shown[0] if len(shown) == 1 else " + ".join(map(str, shown))

    halves = [fusion.first, fusion.second] if fusion else []
    blocks: list[Any] = [", ".join(map(str, half.blocks)) for half in halves] or [task.predict.block]
    return {
        "model": joined([entry.model for entry in entries]),
        "block": joined(blocks),
        "t": joined([getattr(entry.backbone, "timestep", None) for entry in entries]),
        "E": joined([getattr(entry.backbone, "ensemble_size", None) for entry in entries]),
        "size": joined([entry.img_size for entry in entries]),
    }


def _differences(scores: dict[str, UnitSums], metric: str) -> list[Row]:
    """Return the paired difference between each two results that have scores for the same units."""
    rows: list[Row] = []
    for (first_name, first), (second_name, second) in itertools.combinations(scores.items(), 2):
        if first.units == second.units:
            test = difference(first, second)
            estimate = Estimate.of(metric, test.value, test.interval)
            rows.append({"first": first_name, "second": second_name, "difference": estimate, "p": p_text(test.p)})
    return rows
