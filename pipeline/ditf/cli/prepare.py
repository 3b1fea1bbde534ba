"""The commands `ditf prepare ...`, which generate files from a data set's release."""

from pathlib import Path
from typing import Annotated

import typer

from ditf.errors import exit_on_error

prepare = typer.Typer(no_args_is_help=True, help="Generate files from a data set's release.")


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


@prepare.command()
@exit_on_error
def canvas(
    root: Annotated[Path, typer.Argument(help="Folder of SPair-71k.")],
    target: Annotated[Path, typer.Argument(help="Folder to write. It must not exist.")],
    side: Annotated[int, typer.Option("--side", min=16, max=4096, help="Side of the squares in pixels.")] = 840,
) -> None:
    """Write a copy of SPair-71k whose images are padded to squares.

    Resizes and pads images as sd-dino and GeoAware-SC do, and moves keypoints and boxes along. Thresholds of PCK are
    scaled like its errors.

    \b
    Example:
      ditf prepare canvas /data/SPair-71k /data/SPair-71k-canvas
    """
    from ditf.data.prepare_canvas import prepare_canvas

    print(f"{target}: {prepare_canvas(root, target, side):,} images")
