"""The commands `ditf prepare ...`, one per benchmark that must be generated from a data set's release."""

from pathlib import Path
from typing import Annotated

import typer

from ditf.errors import exit_on_error

prepare = typer.Typer(no_args_is_help=True, help="Generate a benchmark's files from a data set's release.")


@prepare.callback()
def _prepare() -> None:
    """Keep `ap10k` a subcommand, since typer would merge a single command into its group."""


@prepare.command()
@exit_on_error
def ap10k(
    root: Annotated[Path, typer.Argument(help="Folder of the release, with annotations/ and data/.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed for sampling the pairs.")] = 42,
    leave_out: Annotated[
        Path | None, typer.Option("--leave-out", help="File with numbers of images to skip, such as crowds.")
    ] = None,
) -> None:
    """Generate pairs of AP-10K within and across species and families.

    Samples them as GeoAware-SC does.

    \b
    Example:
      ditf prepare ap10k /data/ap-10k
    """
    from ditf.data.prepare_ap10k import prepare_ap10k

    for split, count in prepare_ap10k(root, seed, leave_out).items():
        print(f"{split}: {count:,} pairs")
