"""Tables of results for papers and pages: a table per benchmark, with the best and the second best result marked."""

import csv
import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jinja2

from ditf.errors import UserError, suggest
from ditf.metrics.published import PublishedFigure, comparable_figures
from ditf.report.leaderboard import Estimate, describe_related
from ditf.report.records import ResultRecord

Origin = Literal["own", "imported", "published"]


@dataclass(frozen=True)
class ResultRow:
    """A row of a table.

    Attributes:
        origin: Whether the result was measured in this project, imported from a file, or published.
        result: Name of the task, or who published the result.
        model: Name of the model. For a published result, the model and the method.
        descriptor: The descriptor; empty for a published result.
        metrics: Metrics by name.
        remarks: Settings that no source publishes, or that differ from the published ones.
    """

    origin: Origin
    result: str
    model: str
    descriptor: str
    metrics: dict[str, Estimate]
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Task and descriptor of the row, as users choose it."""
        return f"{self.result}/{self.descriptor or self.model}"


@dataclass(frozen=True)
class ResultTable:
    """The results of one benchmark. Results of different benchmarks are not comparable.

    Attributes:
        title: Data and protocol.
        rules: The rules of the protocol.
        metrics: Names of the columns, the headline metric first.
        rows: The rows, the best first.
        related: Published figures of another protocol, which are not comparable, a line each.
    """

    title: str
    rules: str
    metrics: list[str]
    rows: list[ResultRow]
    related: list[str]

    def ranks(self, decimals: int) -> dict[tuple[str, str, str], int]:
        """Return which values are the best and the second best of their column.

        Equal values have the same rank. A column with a single value has no ranks.

        Args:
            decimals: Decimals to which values are rounded.

        Returns:
            1 or 2 by origin, name of the row and metric.
        """
        ranks: dict[tuple[str, str, str], int] = {}
        for metric in self.metrics:
            values = {
                (row.origin, row.name): round(row.metrics[metric].value, decimals)
                for row in self.rows
                if metric in row.metrics
            }
            best = sorted(set(values.values()), reverse=True)[:2]
            if len(values) > 1:
                ranks |= {(*row, metric): best.index(value) + 1 for row, value in values.items() if value in best}
        return ranks


def result_tables(
    own: Iterable[ResultRecord],
    imported: Mapping[str, ResultRecord] | None = None,
    figures: Sequence[PublishedFigure] = (),
) -> list[ResultTable]:
    """Group results by benchmark.

    Args:
        own: Results of this project.
        imported: Results of others, by the name under which they are shown.
        figures: Published figures. Those of the same benchmarks are added.

    Returns:
        A table per benchmark.
    """
    groups: dict[tuple[str, str], list[tuple[ResultRecord, list[ResultRow]]]] = {}
    for record in own:
        groups.setdefault(record.benchmark.key, []).append((record, _rows(record, "own", record.name)))
    for name, record in (imported or {}).items():
        groups.setdefault(record.benchmark.key, []).append((record, _rows(record, "imported", name)))
    return [_table(members, figures) for members in groups.values()]


def _table(members: list[tuple[ResultRecord, list[ResultRow]]], figures: Sequence[PublishedFigure]) -> ResultTable:
    """Return the table of one benchmark, whose results are given as records with their rows."""
    first = members[0][0]
    rows = [row for _, record_rows in members for row in record_rows]
    for figure in comparable_figures(figures, *first.benchmark.key):
        rows.append(ResultRow("published", figure.source, figure.row, "", {figure.metric: Estimate(figure.value)}))
    headline = first.headline
    rows.sort(key=lambda row: -row.metrics[headline].value if headline in row.metrics else 0.0)
    columns = dict.fromkeys(metric for row in rows for metric in row.metrics)
    metrics = sorted(columns, key=lambda metric: metric != headline)
    related = describe_related(figures, *first.benchmark.key)
    return ResultTable(first.benchmark.title, first.protocol.rules, metrics, rows, related)


def _rows(record: ResultRecord, origin: Origin, name: str) -> list[ResultRow]:
    """Return a row per descriptor of a record."""
    return [
        ResultRow(
            origin,
            name,
            str(record.row.get("model", "")),
            descriptor,
            {
                metric: Estimate(
                    value.value, None if value.low is None or value.high is None else (value.low, value.high)
                )
                for metric, value in values.items()
            },
            tuple(record.remarks),
        )
        for descriptor, values in record.metrics.items()
    ]


def select(tables: list[ResultTable], names: Sequence[str], metrics: Sequence[str]) -> list[ResultTable]:
    """Keep chosen rows and columns. Published and imported rows of the remaining tables are kept.

    Args:
        tables: The tables.
        names: Own rows, each as `TASK` or `TASK/DESCRIPTOR`; empty for all.
        metrics: Names of metrics, in the order of the columns; empty for all.

    Raises:
        UserError: There is no such row or metric.
    """
    own = [row for table in tables for row in table.rows if row.origin == "own"]
    for name in names:
        if not any(name in (row.result, row.name) for row in own):
            raise UserError(f"{name}: not a result. {suggest(name, [row.name for row in own])}")
    chosen = []
    for table in tables:
        rows = [row for row in table.rows if not names or row.result in names or row.name in names]
        if rows or not names:
            others = [row for row in table.rows if row.origin != "own"]
            chosen.append(replace(table, rows=[row for row in table.rows if row in rows or row in others]))
    known = list(dict.fromkeys(metric for table in chosen for metric in table.metrics))
    for metric in metrics:
        if metric not in known:
            raise UserError(f"--metric {metric}: no chosen result has this metric. {suggest(metric, known)}")
    if metrics:
        chosen = [replace(table, metrics=[m for m in metrics if m in table.metrics]) for table in chosen]
    return [
        replace(table, rows=[row for row in table.rows if row.metrics.keys() & {*table.metrics}])
        for table in chosen
        if table.metrics
    ]


def as_latex(tables: list[ResultTable], decimals: int, intervals: bool) -> str:
    """Return `tabular` environments that a paper can input. They need the package booktabs.

    Args:
        tables: The tables.
        decimals: Decimals of values.
        intervals: Whether to show 95 % intervals.
    """
    return _render("table.tex", tables, decimals, intervals)


def as_markdown(tables: list[ResultTable], decimals: int, intervals: bool) -> str:
    """Return Markdown, with a heading per table.

    Args:
        tables: The tables.
        decimals: Decimals of values.
        intervals: Whether to show 95 % intervals.
    """
    return _render("table.md", tables, decimals, intervals)


def as_csv(tables: list[ResultTable], decimals: int, intervals: bool) -> str:
    """Return one table in CSV for all benchmarks. Cells of metrics that a benchmark does not have are empty.

    Args:
        tables: The tables.
        decimals: Decimals of values.
        intervals: Whether to add columns with the bounds of 95 % intervals.
    """
    metrics = list(dict.fromkeys(metric for table in tables for metric in table.metrics))
    suffixes = ("", " low", " high") if intervals else ("",)
    columns = ["benchmark", "origin", "result", "model", "descriptor", "remarks"]
    columns += [metric + suffix for metric in metrics for suffix in suffixes]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            cells = {"benchmark": table.title, "origin": row.origin, "result": row.result}
            cells |= {"model": row.model, "descriptor": row.descriptor, "remarks": "; ".join(row.remarks)}
            for metric in set(table.metrics) & row.metrics.keys():
                estimate = row.metrics[metric]
                numbers = zip(suffixes, (estimate.value, *(estimate.interval or ())), strict=False)
                cells |= {metric + suffix: f"{number:.{decimals}f}" for suffix, number in numbers}
            writer.writerow(cells)
    return file.getvalue()


def as_json(tables: list[ResultTable], decimals: int, intervals: bool) -> str:
    """Return JSON: a list of tables, with the rank of the best and the second best value of a column.

    Args:
        tables: The tables.
        decimals: Decimals of values.
        intervals: Whether to add 95 % intervals.
    """
    document = []
    for table in tables:
        ranks, rows = table.ranks(decimals), []
        for row in table.rows:
            metrics: dict[str, Any] = {}
            for metric in table.metrics:
                if metric in row.metrics:
                    estimate = row.metrics[metric]
                    value: dict[str, Any] = {"value": round(estimate.value, decimals)}
                    if intervals and estimate.interval:
                        value["interval"] = [round(bound, decimals) for bound in estimate.interval]
                    metrics[metric] = value | {"rank": ranks.get((row.origin, row.name, metric))}
            names = {"origin": row.origin, "result": row.result, "model": row.model, "descriptor": row.descriptor}
            rows.append(names | {"remarks": list(row.remarks), "metrics": metrics})
        named = {"benchmark": table.title, "protocol": table.rules, "rows": rows}
        document.append(named | ({"related": table.related} if table.related else {}))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[list[ResultTable], int, bool], str]] = {
    "latex": as_latex,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


def _render(template: str, tables: list[ResultTable], decimals: int, intervals: bool) -> str:
    return _environment().get_template(template).render(tables=tables, decimals=decimals, intervals=intervals)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ditf.report", "template"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # LaTeX is full of braces and percent signs.
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters |= {"tex": escape_latex, "md": escape_markdown}
    return environment


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # At the start of a row, these would belong to the line break before it.
    **{character: f"{{{character}}}" for character in "[]*"},
}


def escape_latex(text: str) -> str:
    """Return text in which LaTeX takes every character literally. White space becomes a space."""
    escaped = "".join(LATEX.get(character, character) for character in _printable(text))
    return re.sub("-(?=-)", "-{}", escaped)  # two or three hyphens would become a dash


def escape_markdown(text: str) -> str:
    """Return text in which Markdown takes every character literally, in tables as well."""
    escaped = re.sub(r"([\\`*_\[\]#!])", r"\\\1", _printable(text))
    return re.sub(r"[&<>|~$]", lambda found: f"&#{ord(found[0])};", escaped)


def _printable(text: str) -> str:
    """Return text in one line, without characters that cannot be printed."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
