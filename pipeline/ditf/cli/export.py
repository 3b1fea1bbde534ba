"""The commands `ditf export table` and `ditf export results`."""

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ditf.cli.options import imported_records, load_project
from ditf.errors import UserError, exit_on_error, suggest

if TYPE_CHECKING:
    from ditf.config.params import Params

export = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write results as tables, or as files for others.",
)


class Format(StrEnum):
    """Formats of tables."""

    latex = "latex"
    markdown = "markdown"
    csv = "csv"
    json = "json"


@export.command()
@exit_on_error
def table(
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK | TASK/DESCRIPTOR]...", help="Rows. Default: all results.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="Format of the table.")] = Format.markdown,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="A column. Repeat it. Default: all metrics.")
    ] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals.")] = False,
    published: Annotated[
        bool, typer.Option(help="Add published results of the same protocol and data, marked.")
    ] = True,
    imported: Annotated[
        list[Path] | None,
        typer.Option("--import", metavar="FILE", help="Add the result in a file of `ditf export results`. Repeat it."),
    ] = None,
    decimals: Annotated[int, typer.Option("--decimals", min=0, max=6, help="Decimals of values.")] = 2,
    out: Annotated[Path | None, typer.Option("--out", help="File to write. Default: print the table.")] = None,
) -> None:
    """Write a table of results for a paper or a page.

    Writes one table per protocol and data. In each column, the best value is bold and the second best is underlined.
    LaTeX needs \\usepackage{booktabs} in the paper, which can \\input the file.

    \b
    Examples:
      ditf export table --format latex --out paper/results.tex
      ditf export table spair-flux/adaln spair-flux/adaln+discard --metric point@0.1 --intervals
    """
    target = out.resolve() if out else None
    theirs = imported_records(imported or [])
    params = load_project()
    from ditf.files import write_atomically
    from ditf.metrics.published import published_figures
    from ditf.project.paths import PUBLISHED
    from ditf.report.records import record_of
    from ditf.report.result_tables import FORMATS, result_tables, select

    names = _current_tasks(params, [row.partition("/")[0] for row in rows or []])
    figures = published_figures(PUBLISHED) if published else ()
    tables = result_tables([record_of(params, name) for name in names], theirs, figures)
    text = FORMATS[format](select(tables, rows or [], metrics or []), decimals, intervals)
    if target is None:
        sys.stdout.write(text)
    else:
        write_atomically(target, text.encode())
        print(out)


@export.command()
@exit_on_error
def results(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks. Default: all.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the files.")] = Path("exported"),
    source: Annotated[str, typer.Option("--source", help="Who measured the results, such as a paper or a group.")] = "",
) -> None:
    """Write one JSON file per task, for others to compare with.

    A file contains metrics with intervals, settings, the digests of model and data, versions and hardware. It contains
    no paths and no user names: of a local folder, it has only the name and a digest.

    \b
    Example:
      ditf export results spair-flux --out shared --source "Our paper, 2026"
    """
    folder = out.resolve()
    params = load_project()
    from ditf.files import write_atomically
    from ditf.report.records import record_of, text_of

    for record in [record_of(params, name, source) for name in _current_tasks(params, tasks or [])]:
        write_atomically(folder / f"{record.name}.json", text_of(record).encode())
        print(out / f"{record.name}.json")


def _current_tasks(params: "Params", chosen: Iterable[str]) -> list[str]:
    """Return the chosen tasks, or all that have metrics.

    Raises:
        UserError: A task has no metrics, or its results are out of date.
    """
    from ditf.project.freshness import stale_tasks
    from ditf.report.records import scored_tasks

    scored = scored_tasks(params)
    if not scored:
        raise UserError("results: no task has metrics yet. Run `dvc repro`.")
    names = list(dict.fromkeys(chosen)) or scored
    for name in names:
        if name not in scored:
            raise UserError(f"{name}: not a task with metrics. {suggest(name, scored)}")
    stale = stale_tasks(params)
    if lines := [f"{name} is stale ({stale[name]}). Run `dvc repro`." for name in names if name in stale]:
        raise UserError("\n".join(lines))
    return names
