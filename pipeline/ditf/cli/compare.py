"""The command `ditf compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ditf.cli.options import Json, drawing_file, load_project
from ditf.cli.output import print_drawing, print_json, print_table
from ditf.errors import exit_on_error

RESULT = "A result: TASK, TASK/DESCRIPTOR, or REVISION:TASK/DESCRIPTOR."
Out = Annotated[Path | None, typer.Option("--out", help="Image file for the drawing. Default: in results/drawings/.")]


@exit_on_error
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=RESULT)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another result for the same pairs, sequences or images.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Compare two results: is B better than A, and where?

    Prints the difference of each metric, B minus A, with its 95 % bootstrap interval and the two-sided p-value of a
    paired permutation test. Draws the pairs, frames or images that changed most. Without a descriptor, the last one of
    the task is used. A revision is a commit, a branch, a tag or an experiment of DVC.

    \b
    Examples:
      ditf compare spair-flux/original spair-flux/adaln
      ditf compare HEAD~1:spair-flux spair-flux
    """
    drawing = drawing_file(out)
    params = load_project()
    from ditf.report.compare import compare

    metrics, changed, path = compare(params, first, second, drawing)
    if as_json:
        print_json({"metrics": metrics, "changed": changed})
    else:
        _print_metrics(metrics)
        _print_changed(changed, metrics[0]["metric"])
    print_drawing(path, as_json)


def _print_metrics(rows: list[dict[str, Any]]) -> None:
    """Print a row per metric."""
    from ditf.metrics.display import in_percent, p_text

    shown = []
    for row in rows:
        value = {
            name: in_percent(row["metric"], row[name]) if row[name] is not None else None
            for name in ("first", "second", "difference", "low", "high")
        }
        shown.append(
            {
                "": row["metric"],
                "A": f"{value['first']:.2f}",
                "B": f"{value['second']:.2f}",
                "B - A": f"{value['difference']:+.2f}",
                "95 % interval": "" if value["low"] is None else f"{value['low']:+.2f} to {value['high']:+.2f}",
                "p": p_text(row["p"]),
            }
        )
    print_table(f"B minus A, over {rows[0]['units']} pairs, sequences or images", shown)


def _print_changed(rows: list[dict[str, Any]], metric: str) -> None:
    """Print the pairs, frames or images that changed most."""
    from ditf.metrics.display import in_percent

    if rows:
        value = [{name: in_percent(metric, row[name]) for name in ("first", "second", "difference")} for row in rows]
        shown = [
            {"": row["unit"], "A": f"{v['first']:.2f}", "B": f"{v['second']:.2f}", "B - A": f"{v['difference']:+.2f}"}
            for row, v in zip(rows, value, strict=True)
        ]
        print_table("Changed most", shown)
