"""The command `ditf frames`: a video file as a folder of numbered images."""

from pathlib import Path

import cv2
from tqdm import tqdm

from ditf.errors import UserError


def split(video: Path, folder: Path, every: int) -> int:
    """Write one frame of every `every` of a video as PNGs into an empty or new folder; returns their number.

    Raises:
        UserError: the file is not a readable video, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not an empty folder; give an empty one, or a new one")
    capture = cv2.VideoCapture(str(video))
    try:
        kept = 0
        with tqdm(desc="frames", unit="frame", delay=1) as bar:
            while True:
                whole, image = capture.read()
                if not whole:
                    break
                if bar.n % every == 0:
                    folder.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(folder / f"{kept:05d}.png"), image)
                    kept += 1
                bar.update()
    finally:
        capture.release()
    if not kept:
        raise UserError(f"{video}: not a video that can be read; convert it to MP4 or AVI")
    return kept
