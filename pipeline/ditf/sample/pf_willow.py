"""A sample in the layout of PF-Willow: every pair of views of a photograph."""

import csv
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from ditf.data.images import PNG_COMPRESSION
from ditf.datasets.pf_willow import COLUMNS, POINTS, PREFIX
from ditf.sample.views import views_by_category


def build_pf_willow(root: Path, seed: int) -> None:
    """Write the sample into `root`, with the first ten points that all views of a photograph show."""
    rows: list[list[str]] = []
    for category, views in views_by_category(seed).items():
        folder = root / f"{category}(S)"
        folder.mkdir(parents=True)
        shared = np.flatnonzero(np.logical_and.reduce([view.visible for view in views]))[:POINTS]
        for view in views:
            Image.fromarray(view.pixels).save(folder / f"{view.name}.png", compress_level=PNG_COMPRESSION)
        for source, target in permutations(views, 2):
            names = [f"{PREFIX}{folder.name}/{view.name}.png" for view in (source, target)]
            coordinates = [
                f"{value:.4f}" for view in (source, target) for axis in (0, 1) for value in view.points[shared, axis]
            ]
            rows.append([*names, *coordinates])
    with (root / "test_pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
