"""A sample in the layout of PF-Pascal: every pair of views of a photograph."""

import csv
import io
from itertools import permutations
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from ditf.datasets.pf_pascal import CLASSES, COLUMNS, FOLDER
from ditf.sample.photographs import JPEG_QUALITY
from ditf.sample.views import View, views_by_category

MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(116)


def build_pf_pascal(root: Path, seed: int) -> None:
    """Write the sample into `root` as the split "test". Its classes are the first of PF-Pascal's twenty."""
    (root / "JPEGImages").mkdir(parents=True)
    rows: list[list[object]] = []
    for number, views in enumerate(views_by_category(seed).values()):
        folder = root / "Annotations" / CLASSES[number]
        folder.mkdir(parents=True)
        for view in views:
            Image.fromarray(view.pixels).save(root / "JPEGImages" / f"{view.name}.jpg", quality=JPEG_QUALITY)
            _write_annotation(folder / f"{view.name}.mat", view)
        for source, target in permutations(views, 2):
            shared = source.visible & target.visible
            names = [f"{FOLDER}/JPEGImages/{view.name}.jpg" for view in (source, target)]
            coordinates = [
                ";".join(f"{value:.4f}" for value in view.points[shared, axis])
                for view in (source, target)
                for axis in (0, 1)
            ]
            rows.append([*names, number + 1, *coordinates])
    with (root / "test_pairs_pf_pascal.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def _write_annotation(path: Path, view: View) -> None:
    """Write keypoints and box as a .mat file, without the time of day that scipy writes into its header."""
    points = np.where(view.visible[:, None], view.points, np.nan)
    content = io.BytesIO()
    scipy.io.savemat(content, {"kps": points, "bbox": np.array([view.box], np.float64)})
    path.write_bytes(MAT_HEADER + content.getvalue()[len(MAT_HEADER) :])
