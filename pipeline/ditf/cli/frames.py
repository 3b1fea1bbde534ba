"""The command `ditf frames`."""

from pathlib import Path
from typing import Annotated

import typer

from ditf.errors import exit_on_error


@exit_on_error
def frames(
    video: Annotated[Path, typer.Argument(help="A video file that OpenCV can read.")],
    folder: Annotated[Path, typer.Argument(help="An empty folder, or a new one, for the frames.")],
    every: Annotated[int, typer.Option("--every", min=1, help="Keep one of this many frames.")] = 1,
) -> None:
    """Split a video file into numbered frames.

    The folder suits a data set of type video: put the mask of the first frame beside the frames as mask.png, and add an
    entry to params.yaml.

    \b
    Example:
      ditf frames clip.mp4 data/clip --every 2
    """
    from ditf.data.video_frames import split_video

    print(f"{folder}: {split_video(video, folder, every)} frames")
