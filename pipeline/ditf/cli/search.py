"""The command `ditf search`."""

from typing import Annotated

import typer

from ditf.cli.options import Json, Out, Prompt, TaskName, drawing_file, image_name, load_project, warn_if_stale
from ditf.cli.output import cell, print_drawing, print_json, print_table
from ditf.errors import exit_on_error


@exit_on_error
def search(
    image: Annotated[str, typer.Argument(help="The id of an image in a data set, or any image file.")],
    at: Annotated[str | None, typer.Option("--at", metavar="X,Y", help="A point in pixels of IMAGE.")] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A region of IMAGE in pixels.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Number of places to find. Default: 10, or all.")] = None,
    all_hits: Annotated[
        bool, typer.Option("--all/--per-image", help="Include IMAGE itself, and several places per image.")
    ] = False,
    task: TaskName = None,
    prompt: Prompt = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find places that look like a point, a region or an image.

    IMAGE itself is left out, and each other image gives its best place only, unless you add --all.

    Requires an index, which `dvc repro` builds. If IMAGE is not in the data set, its features are extracted with the
    same settings and cached.

    \b
    Examples:
      ditf search cat/cat_00 --at 150,120
      ditf search cat/cat_00 --box 100,60,200,160
      ditf search photo.jpg
    """
    name, drawing = image_name(image), drawing_file(out)
    params = load_project()
    warn_if_stale(params, task)
    from ditf.project.search import SearchRequest, search

    rows, path = search(params, SearchRequest(name, at, box, k, all_hits, task, prompt), drawing)
    if as_json:
        print_json(rows)
    else:
        columns = [name for name in rows[0] if name not in ("box", "token") and rows[0][name] is not None]
        print_table("", [{name: cell(row[name]) for name in columns} for row in rows], left=["image"])
    print_drawing(path, as_json)
