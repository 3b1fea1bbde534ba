"""The command `ditf match`."""

from typing import Annotated

import typer

from ditf.cli.options import Json, Out, Prompt, TaskName, drawing_file, image_name, load_project, warn_if_stale
from ditf.cli.output import cell, print_drawing, print_json, print_table
from ditf.errors import exit_on_error


@exit_on_error
def match(
    source: Annotated[str, typer.Argument(help="The image with the points: an id of a data set, or a file.")],
    target: Annotated[str, typer.Argument(help="The image in which to find them.")],
    at: Annotated[list[str], typer.Option("--at", metavar="X,Y", help="A point in pixels of SOURCE. Can be repeated.")],
    task: TaskName = None,
    prompt: Prompt = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find corresponding points in another image.

    Draws the similarity map of each point over TARGET. Requires features, which `dvc repro` extracts.

    \b
    Example:
      ditf match cat/cat_00 cat/cat_03 --at 150,120 --at 90,60
    """
    names, drawing = (image_name(source), image_name(target)), drawing_file(out)
    params = load_project()
    warn_if_stale(params, task)
    from ditf.project.search import MatchRequest, match

    rows, path = match(params, MatchRequest(*names, at, task, prompt), drawing)
    if as_json:
        print_json(rows)
    else:
        print_table("", [{name: cell(value) for name, value in row.items()} for row in rows], left=[])
    print_drawing(path, as_json)
