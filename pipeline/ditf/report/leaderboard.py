"""Leaderboards: the results of a benchmark with intervals, published results and paired tests."""

import itertools
import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry
from ditf.metrics.display import in_percent, p_text
from ditf.metrics.intervals import UnitSums, difference, interval, read_units
from ditf.metrics.protocols import protocols
from ditf.metrics.published import PublishedFigure, comparable_figures, related_figures
from ditf.project.presets import remarks_of
from ditf.report.benchmark import read_benchmark
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
        title: Data and protocol.
        rules: The rules of the protocol.
        headline: Metric that ranks results.
        rows: A row for every descriptor of every task and for every published result, the best first.
        related: Published figures of another protocol, which are not comparable, a line each.
        differences: A row for each pair of results that have scores for the same units.
    """

    title: str
    rules: str
    headline: str
    rows: list[Row]
    related: list[str]
    differences: list[Row]


def leaderboards(params: Params, results: Path, figures: Sequence[PublishedFigure]) -> list[Leaderboard]:
    """Return a leaderboard for each benchmark.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks. Tasks without results are left out.
        figures: Published figures.
    """
    return [_leaderboard(params, results, names, figures) for names in tasks_by_benchmark(params, results).values()]


def tasks_by_benchmark(params: Params, results: Path) -> dict[tuple[str, str], list[str]]:
    """Return the tasks that have metrics, by protocol and data.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks.
    """
    benchmarks: dict[tuple[str, str], list[str]] = {}
    for name in params.tasks:
        path = results / name / "metrics.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")):
            benchmarks.setdefault(read_benchmark(results / name / "tables").key, []).append(name)
    return benchmarks


def _leaderboard(
    params: Params, results: Path, names: Sequence[str], figures: Sequence[PublishedFigure]
) -> Leaderboard:
    """Return the leaderboard of one benchmark.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks.
        names: Names of the tasks.
        figures: Published figures.
    """
    benchmark = read_benchmark(results / names[0] / "tables")
    headline, rows = params.tasks[names[0]].headline, []
    scores: dict[str, UnitSums] = {}
    remarks = remarks_of(params)
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
            if name in remarks:
                row["settings"] = ", ".join(remarks[name])
            rows.append(row)
    rows += [
        {"result": f"published, {figure.source}", "model": figure.row, figure.metric: Estimate(figure.value)}
        for figure in comparable_figures(figures, *benchmark.key)
        if figure.metric == headline
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    rows.sort(key=lambda row: -row[headline].value if row[headline] else 0.0)
    related = describe_related(figures, *benchmark.key)
    return Leaderboard(benchmark.title, benchmark.rules, headline, rows, related, _differences(scores, headline))


@dataclass(frozen=True)
class Ranking:
    """The headline metric of all results of a benchmark.

    Attributes:
        title: Data and protocol.
        headline: Name of the metric.
        rows: Result, model and value in percent, the best first.
        related: Published figures of another protocol, which are not comparable, a line each.
    """

    title: str
    headline: str
    rows: list[tuple[str, str, float]]
    related: list[str]


def rankings(params: Params, results: Path, figures: Sequence[PublishedFigure], stale: Container[str]) -> list[Ranking]:
    """Return a ranking for each benchmark. Unlike leaderboards, rankings have no intervals, which take a while.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks.
        figures: Published figures.
        stale: Tasks whose results are out of date. They are left out.
    """
    made = []
    for key, tasks in tasks_by_benchmark(params, results).items():
        names = [name for name in tasks if name not in stale]
        if not names:
            continue
        headline = params.tasks[names[0]].headline
        rows = [
            (f"{name}/{descriptor}", str(settings(params, params.tasks[name])["model"]), in_percent(headline, value))
            for name in names
            for descriptor, metrics in json.loads((results / name / "metrics.json").read_text(encoding="utf-8")).items()
            if (value := metrics.get(headline)) is not None
        ]
        rows += [
            (f"published, {figure.source}", figure.row, figure.value)
            for figure in comparable_figures(figures, *key)
            if figure.metric == headline
        ]
        rows.sort(key=lambda row: -row[2])
        title = read_benchmark(results / names[0] / "tables").title
        made.append(Ranking(title, headline, rows, describe_related(figures, *key)))
    return made


def describe_related(figures: Iterable[PublishedFigure], protocol: str, data: str) -> list[str]:
    """Describe published figures that are not comparable because no task can follow their protocol.

    Args:
        figures: Published figures.
        protocol: Name of the protocol of the results, which is the closest.
        data: Official split of the results; empty for other data.

    Returns:
        A line per figure.
    """
    rules = {each.name: each.rules for each in protocols()}
    return [
        f"{figure.row}: {figure.metric} {figure.value:g} ({figure.source}). Protocol {figure.protocol}: "
        f"{rules[figure.protocol]}"
        for figure in related_figures(figures, protocol, data)
    ]


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
