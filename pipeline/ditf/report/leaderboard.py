"""Every result beside the others of its benchmark: metrics with intervals, published numbers, and paired tests."""

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry
from ditf.metrics.intervals import Sums, difference, interval, read_units
from ditf.tasks.base import Task

Row = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A metric. interval: of 95 %, where it is known."""

    value: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        shown = f"{self.value:.4g}"
        return shown + (" [{:.4g}, {:.4g}]".format(*self.interval) if self.interval else "")


@dataclass(frozen=True)
class Leaderboard:
    """A benchmark. title: its task and data set. rows: of every descriptor of every task, and the published ones, the
    best first. differences: between any two of them, where both have results for the same units."""

    title: str
    headline: str
    rows: list[Row]
    differences: list[Row]


def leaderboards(params: Params, results: Path) -> list[Leaderboard]:
    """Of the tasks that have results in a folder, a table for each benchmark: kind of task, data set and its folder."""
    benchmarks: dict[tuple[str, ...], list[str]] = {}
    for name, task in params.tasks.items():
        path = results / name / "metrics.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")):
            dataset = params.datasets[task.dataset]
            split = str(getattr(dataset, "split", ""))
            benchmarks.setdefault((task.type, dataset.type, split, str(dataset.root)), []).append(name)
    return [_leaderboard(params, results, key, names) for key, names in benchmarks.items()]


def _leaderboard(params: Params, results: Path, key: tuple[str, ...], names: list[str]) -> Leaderboard:
    kind, dataset, split, root = key
    headline, rows = params.tasks[names[0]].headline, []
    parts: dict[str, Sums] = {}
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
                row[metric] = Estimate(values[metric], interval(sums) if sums else None)
                if sums and metric == headline:
                    parts[row["result"]] = sums
                    row["units"] = len(sums.units)
            rows.append(row)
    rows += [row for row in _published(kind, dataset, split) if headline in row]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    rows.sort(key=lambda row: -row[headline].value if row[headline] else 0.0)
    title = f"{kind.rpartition(':')[2]} on {dataset.rpartition(':')[2]}{f', split {split}' if split else ''} ({root})"
    return Leaderboard(title, headline, rows, _differences(parts))


def settings(params: Params, task: Task) -> Row:
    """What a result is of: model, block, timestep, ensemble size and image size; of both halves of a fusion."""
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


def _published(kind: str, dataset: str, split: str) -> Iterator[Row]:
    """Published numbers of a benchmark."""
    text = resources.files("ditf.report").joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        if (row["task"], row["dataset"], row["split"]) == (kind, dataset, split):
            value = Estimate(float(row["value"]))
            yield {
                "result": f"published, {row['source']}",
                "model": row["model"],
                "descriptor": row["descriptor"],
                row["metric"]: value,
            }


def _differences(parts: dict[str, Sums]) -> list[Row]:
    rows: list[Row] = []
    for (one, first), (other, second) in itertools.combinations(parts.items(), 2):
        if first.units == second.units:
            found = difference(first, second)
            rows.append(
                {"first": one, "second": other, "difference": Estimate(found.value, found.interval), "p": found.p}
            )
    return rows
