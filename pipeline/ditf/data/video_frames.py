"""A video file, split into a folder of numbered images."""

import sys
from pathlib import Path

import cv2
from tqdm import tqdm

from ditf.errors import UserError
from ditf.files import reporting_write_errors


def split_video(video: Path, folder: Path, every: int) -> int:
    """Write frames of a video as PNGs. Prints a warning if reading stops before the last frame.

    Args:
        video: A video file that OpenCV reads.
        folder: An empty folder, or a new one.
        every: Keep one frame of so many.

    Returns:
        The number of written frames.

    Raises:
        UserError: The file is not a readable video, or the folder is not empty or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not an empty folder. Give an empty folder, or a new one.")
    if not video.is_file():
        raise UserError(f"{video}: not found. Give a video file.")
    capture = cv2.VideoCapture(str(video))
    try:
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        read = written = 0
        with tqdm(desc="frames", total=expected if expected > 0 else None, unit="frame", delay=1) as bar:
            while True:
                success, image = capture.read()
                if not success:
                    break
                if read % every == 0:
                    _write_png(folder / f"{written:05d}.png", image)
                    written += 1
                read += 1
                bar.update()
    finally:
        capture.release()
    if not written:
        raise UserError(f"{video}: not a video that can be read. Convert it to MP4 or AVI.")
    if read < expected:
        print(
            f"warning: {video}: reading stopped after frame {read} of {expected}, so the file may be damaged or "
            "incomplete. Check the last frames, or convert the video again.",
            file=sys.stderr,
        )
    return written


def _write_png(path: Path, image: cv2.typing.MatLike) -> None:
    """Write an image. Raises `UserError` if the file cannot be written."""
    _, data = cv2.imencode(".png", image)
    with reporting_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
