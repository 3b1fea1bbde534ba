"""The command `ditf`: one module per command, assembled here.

These modules import only what parses the command line. Each command imports the library when it runs, since `ditf
--help` would otherwise wait for pydantic models, zarr and pyarrow.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from ditf.cli.compare import compare
from ditf.cli.davis import davis
from ditf.cli.doctor import doctor
from ditf.cli.explore import explore, serve
from ditf.cli.export import export
from ditf.cli.frames import frames
from ditf.cli.init import init
from ditf.cli.match import match
from ditf.cli.models import models
from ditf.cli.plan import plan
from ditf.cli.prepare import prepare
from ditf.cli.preset import preset, presets
from ditf.cli.repair import repair
from ditf.cli.results import results
from ditf.cli.search import search
from ditf.cli.spair import spair
from ditf.cli.verify import verify

# Plain help texts, since rich takes longer to load than the command runs.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(requested: bool) -> None:
    if requested:
        print(version("ditf"))
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Extract features of diffusion transformers once; then match, propagate, segment and search with them.

    `dvc repro` runs the stages of dvc.yaml that are out of date, with the parameters in params.yaml. `ditf results`
    prints the metrics. Run the commands anywhere inside a project.

    \b
    Examples:
      ditf init my-project && cd my-project && dvc repro
      ditf results
      ditf search cat/cat_00 --at 150,120
    """


for command in (
    results,
    compare,
    search,
    match,
    explore,
    serve,
    plan,
    doctor,
    verify,
    repair,
    models,
    frames,
    spair,
    davis,
    init,
    presets,
):
    app.command()(command)
app.add_typer(export, name="export")
app.add_typer(prepare, name="prepare")
app.add_typer(preset, name="preset")
