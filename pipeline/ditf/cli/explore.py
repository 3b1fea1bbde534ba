"""The commands `ditf explore` and `ditf serve`."""

from importlib.util import find_spec
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
) -> None:
    """Explore features and results in the browser.

    Opens a page that shows what corresponds to the point under the mouse. Requires features, which `dvc repro`
    extracts. The model does not run.

    \b
    Example:
      ditf explore
    """
    _serve(host, port, memory, token, open_browser=True)


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


def _serve(host: str, port: int, memory: int, token: str | None, open_browser: bool) -> None:
    """Run the server in the project's folder."""
    params = load_project()
    for module, package in REQUIRED.items():
        if find_spec(module) is None:
            raise UserError(f"{package}: not installed. Run `pip install 'ditf[serve]'`.")
    from ditf.explore.serve import serve

    serve(params, host, port, memory << 20, open_browser, token)
