"""Render the report: all results on one self-contained HTML page."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq

from ditf.backbones.source import MINIATURE, TINY
from ditf.config.params import Params
from ditf.data.tables import read_table
from ditf.drawing.figures import spread
from ditf.metrics.display import group_value, in_percent, is_fraction
from ditf.metrics.published import PublishedFigure
from ditf.provenance import versions_of
from ditf.report.captions import caption_of
from ditf.report.embed import data_uri, svg
from ditf.report.leaderboard import Row, leaderboards

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
DECIMAL = re.compile(r"-?\d+(\.\d+|e[+-]?\d+|\.\d+e[+-]?\d+)")
MOST_PICTURES = 9  # still images and animations per section, each


@dataclass(frozen=True)
class Picture:
    """An image or animation in a section.

    Attributes:
        caption: Text below the image.
        alt: Description of the image for readers who cannot see it.
        source: The image as a data URI.
    """

    caption: str
    alt: str
    source: str


@dataclass
class ReportSection:
    """A section of the page.

    Attributes:
        title: Name of the entry in `params.yaml`.
        note: A sentence below the title.
        stale: Reason why the results are out of date, or an empty text.
        charts: Charts as SVG by title.
        pictures: Images and animations.
        left_out: Number of images that are not shown.
        tables: Rows of tables by title.
        facts: Provenance by name.
    """

    title: str
    note: str = ""
    stale: str = ""
    charts: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    left_out: int = 0
    tables: dict[str, list[Row]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def render(
    params: Params,
    results: Path,
    stale: Mapping[str, str] | None = None,
    figures: Sequence[PublishedFigure] = (),
) -> str:
    """Render the page from the folder of results alone. Stores and images are not read.

    Args:
        params: Parameters of the project. Entries without results are left out.
        results: Folder of results, with a folder per task, `analysis/` and `sweeps/`.
        stale: Reasons why the results of tasks are out of date, by task.
        figures: Published figures.
    """
    tasks = [name for name in params.tasks if (results / name / "metrics.json").exists()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ditf.report", "template"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    sources = {source for name in tasks for source in params.sources_of(params.tasks[name].features)}
    boards = leaderboards(params, results, figures)
    return environment.get_template("report.html").render(
        tiny=any(source.startswith(TINY) for source in sources),
        miniature=MINIATURE in sources,
        version=versions_of(["ditf"])["ditf"],
        summary=_summary(params, results, tasks),
        leaderboards=boards,
        published=any(str(row["result"]).startswith("published") for board in boards for row in board.rows),
        tasks=[_task(params, results, name, (stale or {}).get(name, "")) for name in tasks],
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


def _summary(params: Params, results: Path, tasks: Sequence[str]) -> list[Row]:
    """Return the best descriptor of each task by its headline metric, in percent."""
    rows: list[Row] = []
    for name in tasks:
        task = params.tasks[name]
        metrics = json.loads((results / name / "metrics.json").read_text(encoding="utf-8"))
        scores = {
            descriptor: values[task.headline] for descriptor, values in metrics.items() if task.headline in values
        }
        if scores:
            best = max(scores, key=lambda descriptor: scores[descriptor])
            value = f"{in_percent(task.headline, scores[best]):.2f}"
            rows.append(
                {"task": name, "type": task.type, "data set": task.dataset, "metric": task.headline}
                | {"in percent": value, "descriptor": best}
            )
    return rows


def _task(params: Params, results: Path, name: str, stale: str) -> ReportSection:
    """Return the section of a task: charts, visualizations, tables and provenance."""
    task, folder = params.tasks[name], results / name
    section = ReportSection(name, f"{task.type} on {task.dataset}, features {task.features}", stale)
    section.charts = {
        title: svg(figure, f"{name} {title}", f"Chart: {title}")
        for title, figure in task.charts(folder / "tables").items()
    }
    _add_pictures(section, sorted((folder / "visualizations").glob("*")))
    section.tables = {
        path.stem.replace("_", " "): _readable(read_table(path)) for path in sorted((folder / "tables").glob("*.csv"))
    }
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    section.facts = dict(_flatten(run))
    return section


def _analysis(folder: Path) -> ReportSection:
    """Return the section of an entry of features: its massive channels and the similarity of its tokens."""
    section = ReportSection(folder.name)
    _add_pictures(section, sorted(folder.glob("*.png")))
    titles = {"largest": "The ten largest channels of each block", "similarity": "Mutual cosine similarity of tokens"}
    section.tables = {title: _readable(read_table(folder / f"{name}.csv")) for name, title in titles.items()}
    return section


def _sweep(folder: Path) -> ReportSection:
    """Return the section of a sweep."""
    best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    note = "best: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in best.items())
    section = ReportSection(folder.name, note)
    _add_pictures(section, sorted(folder.glob("*.png")))
    rows = pq.read_table(folder / "sweep.parquet").to_pylist()
    section.tables = {"all settings": [{**row, "massive": ", ".join(map(str, row["massive"]))} for row in rows]}
    return section


def _stores(results: Path, tasks: Sequence[str]) -> list[Row]:
    """Return a row per task with the number of images and the size of its store."""
    rows = []
    for name in tasks:
        run = json.loads((results / name / "run.json").read_text(encoding="utf-8"))
        rows.append({"task": name, "images": run["images"], "bytes of the store": run["bytes"]})
    return rows


def _add_pictures(section: ReportSection, paths: Sequence[Path]) -> None:
    """Add images to a section. An animation replaces the still image of the same name.

    Args:
        section: The section.
        paths: Image files. If there are too many, evenly spaced ones are chosen.
    """
    animated = {path.stem for path in paths if path.suffix == ".gif"}
    kinds = (
        [path for path in paths if path.suffix == ".png" and path.stem not in animated],
        [path for path in paths if path.suffix == ".gif"],
    )
    for kind in kinds:
        chosen = spread(kind, MOST_PICTURES)
        section.pictures += [Picture(*caption_of(path.stem), data_uri(path)) for path in chosen]
        section.left_out += len(kind) - len(chosen)


def _readable(rows: Sequence[Mapping[str, str]]) -> list[Row]:
    """Format the rows of a CSV file for readers: few digits, fractions in percent, names of difficulty grades."""
    return [{_title(name): _cell(row, name) for name in row} for row in rows]


def _title(column: str) -> str:
    """Return the title of a column of a CSV file."""
    return f"{column.replace('-', ' ')}, %" if is_fraction(column) else column.replace("_", " ")


def _cell(row: Mapping[str, str], column: str) -> str:
    """Format a cell of a CSV file."""
    text = row[column]
    if column == "value" and "group" in row:
        return group_value(row["group"], text)
    metric = row.get("metric", "") if column == "value" else column
    if is_fraction(metric):
        return f"{in_percent(metric, float(text)):.1f}" + ("" if metric == column else " %")
    if not DECIMAL.fullmatch(text):
        return text
    number = float(text)
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.2f}" if abs(number) >= 1 else f"{number:.3g}"


def _number(value: Any) -> float | None:
    """Return the number that sorts a cell, or None for text."""
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else None
    return value if isinstance(value, int | float) else getattr(value, "value", None)


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their paths, such as "predict.block"."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else value
