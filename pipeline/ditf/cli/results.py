"""The command `ditf results`."""

import json
import sys
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditf.cli.options import imported_records, load_project
from ditf.cli.output import print_table
from ditf.data.tables import read_table
from ditf.errors import UserError, exit_on_error
from ditf.metrics.display import group_label, in_percent, is_fraction
from ditf.project.paths import PUBLISHED, REPORT, RESULTS

if TYPE_CHECKING:
    from ditf.config.params import Params

Rows = list[dict[str, str]]
ORIGINS = {"own": "this project", "imported": "others", "published": "published"}
# Notes on models that come with this package, by the start of their source.
NOTES = {
    "tiny-": "These are results of a tiny random model, in which two massive channels were planted:\n"
    "they show that the pipeline works, not how well a trained model sees.\n",
    "miniature": "These are results of the miniature, a small model that was trained for this package.\n"
    "Its massive channels were arranged. The results say nothing about larger models.\n",
}
MOST_SHOWN = 60  # characters of a parameter's value


@exit_on_error
def results(
    imported: Annotated[
        list[Path] | None,
        typer.Option("--import", metavar="FILE", help="Show the result in a file of `ditf export results`. Repeat it."),
    ] = None,
) -> None:
    """Print the metrics of all tasks and list their images.

    Ends with a ranking for each protocol and data set, beside published figures of the same protocol and data.

    Says which results are stale because params.yaml was edited after they were computed, and which parameters differ
    from the last commit. `dvc exp run -S` leaves its parameters in params.yaml.

    With --import, prints a table per benchmark instead, in which results of others stand beside yours. Nothing in the
    project is changed.

    \b
    Examples:
      ditf results
      ditf results --import theirs/spair-flux.json
    """
    if imported:
        _print_beside_own(imported)
        return
    params = load_project()
    from ditf.project.freshness import differences_from_head, stale_tasks
    from ditf.project.presets import verdicts

    tasks = [name for name in params.tasks if (RESULTS / name / "metrics.json").exists()]
    if not tasks:
        raise UserError(f"{RESULTS}: no results yet. Run `dvc repro`.")
    stale = stale_tasks(params)
    for name in tasks:
        print_task(name)
        if name in stale:
            print(f"{name} is stale: run `dvc repro` ({stale[name]})\n")
    _print_rankings(params, stale)
    sources = {source for name in tasks for source in params.sources_of(params.tasks[name].features)}
    for start, note in NOTES.items():
        if any(source.startswith(start) for source in sources):
            print(note)
    if lines := verdicts(params, RESULTS):
        print("Rows of presets:", *(f"  {line}" for line in lines), "", sep="\n")
    print("Visualizations:")
    for path in sorted([*RESULTS.glob("*/visualizations/*"), *RESULTS.glob("analysis/*/*.png")]):
        print(f"  {path}")
    if REPORT.exists():
        print(f"All results on one page: {REPORT}")
    if differences := differences_from_head():
        print("Parameters that differ from the last commit (HEAD):")
        for parameter, (before, now) in differences.items():
            print(f"  {parameter}: {_short(before)} -> {_short(now)}")


def _print_rankings(params: "Params", stale: Container[str]) -> None:
    """Print the headline metric of results that are not stale, in a table per protocol and data."""
    from ditf.metrics.published import published_figures
    from ditf.report.leaderboard import rankings

    for ranking in rankings(params, RESULTS, published_figures(PUBLISHED), stale):
        rows = [{"": name, "model": model, ranking.headline: f"{value:.2f}"} for name, model, value in ranking.rows]
        print_table(f"{ranking.title}, in percent", rows, left=("", "model"))
        for line in ranking.related:
            print(f"Not comparable: {line}\n")


def _print_beside_own(paths: list[Path]) -> None:
    """Print the results of others beside those of the project, in a table per benchmark."""
    from ditf.metrics.published import published_figures
    from ditf.project.freshness import stale_tasks
    from ditf.report.records import record_of, scored_tasks
    from ditf.report.result_tables import result_tables

    theirs = imported_records(paths)
    params = load_project()
    for name, reason in stale_tasks(params).items():
        print(f"warning: {name} is stale ({reason}). Run `dvc repro`.", file=sys.stderr)
    own = [record_of(params, name) for name in scored_tasks(params)]
    for table in result_tables(own, theirs, published_figures(PUBLISHED)):
        rows = [
            {"": row.result, "from": ORIGINS[row.origin], "model": row.model, "descriptor": row.descriptor}
            | {metric: str(row.metrics.get(metric, "")) for metric in table.metrics}
            | ({"settings": "; ".join(row.remarks)} if any(each.remarks for each in table.rows) else {})
            for row in table.rows
        ]
        left = ("", "from", "model", "descriptor", "settings")
        print_table(f"{table.title}, in percent with 95 % intervals", rows, left=left)
        for line in table.related:
            print(f"Not comparable: {line}\n")


def print_task(name: str) -> None:
    """Print the metrics of one task."""
    tables = RESULTS / name / "tables"
    if (tables / "pck.csv").exists():
        _print_pck(name, read_table(tables / "pck.csv"))
    elif (tables / "jf_all.csv").exists():
        _print_jf(name, read_table(tables / "jf_all.csv"))
    else:
        metrics = json.loads((RESULTS / name / "metrics.json").read_text(encoding="utf-8"))
        if not metrics:
            predictions = RESULTS / name / "predictions"
            print(f"{name}: not scored, because the data set has no true answers. Predictions: {predictions}\n")
            return
        rows = [
            {"": descriptor, **{metric: f"{in_percent(metric, value):.4g}" for metric, value in values.items()}}
            for descriptor, values in metrics.items()
        ]
        fractions = all(is_fraction(metric) for values in metrics.values() for metric in values)
        print_table(f"{name}: metrics{', in percent' if fractions else ''}", rows)


def _print_pck(name: str, all_rows: Rows) -> None:
    """Print PCK by category and group for the last descriptor, and PCK over all pairs for every descriptor."""
    rule = all_rows[0]["rule"]
    rows = [row for row in all_rows if row["rule"] == rule]
    categories = [row for row in rows if row["group"] == "category"]
    last = categories[-1]["descriptor"]
    title = f"{name}: PCK by category, in percent, per image and per point ({last})"
    print_table(title, _by_alpha([row for row in categories if row["descriptor"] == last], "value"))
    grouped = [row for row in rows if row["group"] != "category" and row["descriptor"] == last]
    sizes = Counter(group for group, _ in {(row["group"], row["value"]) for row in grouped})
    groups = [{**row, "value": group_label(row["group"], row["value"])} for row in grouped if sizes[row["group"]] > 1]
    if groups:
        print_table(f"{name}: PCK by group of pairs, in percent ({last})", _by_alpha(groups, "value"))
    if len({row["descriptor"] for row in categories}) > 1:
        title = f"{name}: PCK by descriptor, in percent, over all pairs"
        print_table(title, _by_alpha([row for row in categories if row["value"] == "All"], "descriptor"))
    totals = [row for row in all_rows if row["value"] == "All" and row["descriptor"] == last]
    if len(totals) > len({row["alpha"] for row in totals}):
        named = [
            {**row, "value": row["rule"] if row["group"] == "category" else row["group"].replace("_", " ")}
            for row in totals
        ]
        title = f"{name}: PCK by rule and subset of keypoints, in percent, over all pairs"
        print_table(title, _by_alpha(named, "value"))


def _print_jf(name: str, rows: Rows) -> None:
    """Print J and F over all objects, a row per descriptor."""
    shown = [
        {"": row["descriptor"]}
        | {key.replace("-", "\n"): f"{in_percent(key, float(row[key])):.1f}" for key in row if key != "descriptor"}
        for row in rows
    ]
    print_table(f"{name}: J and F over all objects, in percent", shown)


def _by_alpha(rows: Rows, key: str) -> Rows:
    """Return one row per value of the column `key`, with PCK per image and per point at each alpha."""
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = table.setdefault(row[key], {"": row[key]})
        for kind in ("image", "point"):
            cells[f"{kind}\n@{row['alpha']}"] = f"{float(row[kind]):.2f}"
    return list(table.values())


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
