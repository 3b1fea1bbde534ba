"""The report: all results on one page of HTML, self-contained."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq

from ditf.backbones.source import TINY
from ditf.config.params import Params
from ditf.drawing.pictures import spread
from ditf.provenance import versions_of
from ditf.report.embed import data_uri, svg
from ditf.report.leaderboard import Row, leaderboards
from ditf.tasks.base import read_csv

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
MOST_PICTURES = 9  # of a kind, per section


@dataclass
class ReportSection:
    """A part of the page.

    note: a sentence under the title. charts: SVG by title. pictures: data URIs by title; `left_out` more are not shown.
    tables: rows by title. facts: of its provenance.
    """

    title: str
    note: str = ""
    charts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    tables: dict[str, list[Row]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def render(params: Params, results: Path) -> str:
    """The page, from a folder of results. It needs neither the stores nor the images.

    Args:
        params: entries without results are left out.
        results: with a folder per task, `analysis/` and `sweeps/`.
    """
    tasks = [name for name in params.tasks if (results / name / "metrics.json").exists()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ditf.report", "template"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    tiny = any(source.startswith(TINY) for name in tasks for source in params.sources_of(params.tasks[name].features))
    return environment.get_template("report.html").render(
        tiny=tiny,
        version=versions_of(["ditf"])["ditf"],
        leaderboards=leaderboards(params, results),
        tasks=[_task(params, results, name) for name in tasks],
        analysis=[
            _analysis(results / "analysis" / name) for name in params.features if (results / "analysis" / name).exists()
        ],
        sweeps=[
            _sweep(results / "sweeps" / name)
            for name in params.sweeps
            if (results / "sweeps" / name / "best.json").exists()
        ],
        costs={"Stores": _stores(results, tasks)},
    )


def _task(params: Params, results: Path, name: str) -> ReportSection:
    task, folder = params.tasks[name], results / name
    section = ReportSection(name, f"{task.type} on {task.dataset}, features {task.features}")
    section.charts = {title: svg(figure, f"{name} {title}") for title, figure in task.charts(folder / "tables").items()}
    _show(section, sorted((folder / "visualizations").glob("*")))
    section.tables = {path.stem.replace("_", " "): read_csv(path) for path in sorted((folder / "tables").glob("*.csv"))}
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    section.facts = dict(_flat(run))
    return section


def _analysis(folder: Path) -> ReportSection:
    section = ReportSection(folder.name)
    _show(section, sorted(folder.glob("*.png")))
    titles = {"largest": "The ten largest channels of each block", "similarity": "Mutual cosine similarity of tokens"}
    section.tables = {title: read_csv(folder / f"{name}.csv") for name, title in titles.items()}
    return section


def _sweep(folder: Path) -> ReportSection:
    best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    note = "best: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in best.items())
    section = ReportSection(folder.name, note)
    _show(section, sorted(folder.glob("*.png")))
    rows = pq.read_table(folder / "sweep.parquet").to_pylist()
    section.tables = {"all settings": [{**row, "massive": ", ".join(map(str, row["massive"]))} for row in rows]}
    return section


def _stores(results: Path, tasks: Sequence[str]) -> list[Row]:
    """Return the images and bytes of the store behind each task."""
    rows = []
    for name in tasks:
        run = json.loads((results / name / "run.json").read_text(encoding="utf-8"))
        rows.append({"task": name, "images": run["images"], "bytes of the store": run["bytes"]})
    return rows


def _show(section: ReportSection, paths: Sequence[Path]) -> None:
    """Add pictures; of a sequence its animation only; of many, some that are evenly spaced."""
    moving = {path.stem for path in paths if path.suffix == ".gif"}
    kinds = (
        [path for path in paths if path.suffix == ".png" and path.stem not in moving],
        [path for path in paths if path.suffix == ".gif"],
    )
    for found in kinds:
        chosen = spread(found, MOST_PICTURES)
        section.pictures |= {path.stem.replace("_", " "): data_uri(path) for path in chosen}
        section.left_out += len(found) - len(chosen)


def _number(value: Any) -> float | None:
    """What a cell is sorted by, if it is a number: a cell of CSV is text, and is shown as it stands."""
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else None
    return value if isinstance(value, int | float) else getattr(value, "value", None)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, named by their paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else value
