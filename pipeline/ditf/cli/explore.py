"""The commands `ditf explore` and `ditf serve`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ditf.cli.options import load_project
from ditf.errors import UserError, exit_on_error

Host = Annotated[str, typer.Option("--host", help="Address to listen on. Any but a loopback address requires a token.")]
Token = Annotated[
    str | None,
    typer.Option("--token", help="Secret that requests must carry. Default: a random one, or none on loopback."),
]
Memory = Annotated[int, typer.Option("--memory", min=16, help="Features kept in memory, in MiB.")]


# The modules of the extra `serve`, and their packages.
REQUIRED = {"fastapi": "fastapi", "python_multipart": "python-multipart", "uvicorn": "uvicorn"}


@exit_on_error
def explore(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one.")] = 0,
    memory: Memory = 512,
    token: Token = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FOLDER", help="Write a page that needs no server, and exit.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="With --export: a task of type correspondence. Default: the only one.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option("--pair", help="With --export: a pair to show. Can be repeated.")
    ] = None,
) -> None:
    """Explore features and results in the browser.

    Opens a page that shows what corresponds to the point under the mouse. Requires features, which `dvc repro`
    extracts. The model does not run.

    --export writes the views Match and Pairs as files for any web server. Descriptors are reduced, so that an image
    takes at most 300 kB. By default the page shows up to eight pairs from the best to the worst.

    \b
    Examples:
      ditf explore
      ditf explore --export public/explorer
    """
    if export is None:
        if task or pair:
            raise UserError("--task and --pair: only with --export. Choose images on the page.")
        _serve(host, port, memory, token, open_browser=True)
    else:
        _export(export.resolve(), task, pair or [])


@exit_on_error
def serve(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    memory: Memory = 512,
    token: Token = None,
) -> None:
    """Answer queries over HTTP, and serve the explorer's page.

    The API is described by /api/openapi.json.

    \b
    Example:
      ditf serve --port 8000
      curl 'http://127.0.0.1:8000/api/project'
    """
    _serve(host, port, memory, token, open_browser=False)


def _export(folder: Path, task: str | None, pairs: list[str]) -> None:
    """Write the page of a task."""
    params = load_project()
    from ditf.explore.export import export
    from ditf.explore.library import Explorer

    tasks = [name for name, settings in params.tasks.items() if settings.type == "correspondence"]
    if task is None and len(tasks) != 1:
        raise UserError(f"--task: params.yaml has {len(tasks)} tasks of type correspondence. Name one with --task.")
    difference = export(Explorer(params), folder, task or tasks[0], pairs)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB. A similarity differs from the exact one by at most {difference:.4f}.")
    print(f"Look at it: python -m http.server -d {folder} 8000")


def _serve(host: str, port: int, memory: int, token: str | None, open_browser: bool) -> None:
    """Run the server in the project's folder."""
    params = load_project()
    for module, package in REQUIRED.items():
        if find_spec(module) is None:
            raise UserError(f"{package}: not installed. Run `pip install 'ditf[serve]'`.")
    from ditf.explore.serve import serve

    serve(params, host, port, memory << 20, open_browser, token)
