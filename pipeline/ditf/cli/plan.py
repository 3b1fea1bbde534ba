"""The command `ditf plan`."""

from typing import Annotated

import typer

from ditf.cli.options import load_project
from ditf.cli.output import print_table
from ditf.errors import UserError, exit_on_error

LONGEST_SIDE = 16384  # pixels


@exit_on_error
def plan(
    tflops: Annotated[
        float | None, typer.Option("--tflops", min=0.001, help="Speed of a worker in TFLOP/s. Default: measured.")
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Plan for this number of images instead of the data sets.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="W,H", help="Size of these images in pixels. Requires --images.")
    ] = None,
    bandwidth: Annotated[float, typer.Option("--gb-per-s", min=0.001, help="Speed of copies to the GPU in GB/s.")] = 25,
) -> None:
    """Estimate time, disk space and GPU memory before a run.

    Prints a column for each entry of features and sweeps, and which GPU suffices with each memory-saving option.

    \b
    Example:
      ditf plan --images 1000000 --size 500,375
    """
    if (images is None) != (size is None):
        raise UserError("--images and --size: give both, or neither for the data sets of params.yaml")
    sides = size.split(",") if size else ["1", "1"]
    if len(sides) != 2 or not all(side.isdecimal() and 0 < int(side) <= LONGEST_SIDE for side in sides):
        raise UserError(f"--size {size}: give width and height in pixels, such as 500,375")
    params = load_project()
    from ditf.project.plan import plan

    result = plan(params, tflops, images, (int(sides[0]), int(sides[1])) if size else None, bandwidth)
    print("\n".join(result.notes))
    print_table("", result.rows)
