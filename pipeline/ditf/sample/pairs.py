"""Samples of the other benchmarks, in their official layouts: photographs and turned, scaled views of them.

Every view shows the same points of its photograph, so that any two views are a pair with exact keypoints.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import PNG_COMPRESSION, RGB, shrink
from ditf.sample.pictures import JPEG_QUALITY, PHOTO_FOLDERS, PHOTO_SIDE, PHOTOS

JOINTS = 17  # points of a photograph
VIEWS = 4  # of each photograph, itself included
MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(116)
TURN, SCALE = 15.0, (0.8, 1.1)  # degrees either way; of the views


@dataclass(frozen=True)
class View:
    """A view of a photograph. points: [17, 2], (x, y) in pixels; those outside it are not visible."""

    name: str
    kind: str
    family: str
    pixels: RGB
    points: NDArray[np.float64]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Which points the view shows, [17]."""
        height, width = self.pixels.shape[:2]
        return np.logical_and.reduce((self.points >= 0) & (self.points < (width, height)), axis=1)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Around the visible points, x1, y1, x2, y2."""
        low, high = self.points[self.visible].min(0), self.points[self.visible].max(0)
        return int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1


def views(seed: int) -> Iterator[View]:
    """The views of each photograph."""
    number = 0
    for family, names in PHOTO_FOLDERS.items():
        for kind in names:
            rng = np.random.default_rng([seed, number])
            image = shrink(PHOTOS[kind].load(), PHOTO_SIDE)
            height, width = image.shape[:2]
            x1, y1, x2, y2 = PHOTOS[kind].box
            spread = rng.uniform((0.15, 0.15), (0.85, 0.85), (JOINTS, 2))
            points = (np.array((x1, y1)) + spread * (x2 - x1, y2 - y1)) * (width, height)
            for view in range(VIEWS):
                number += 1
                turn, scale = (0.0, 1.0) if view == 0 else (rng.uniform(-TURN, TURN), rng.uniform(*SCALE))
                matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
                warped = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
                moved = points @ matrix[:, :2].T + matrix[:, 2]
                yield View(f"{number:012d}", kind, family, np.asarray(warped, np.uint8), moved)


def build_ap10k(root: Path, seed: int) -> None:
    """Write the sample in the layout of AP-10K's release into `root`; `ditf prepare ap10k` makes pairs of it."""
    annotations: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    categories = {kind: (n, family) for n, (family, kind) in enumerate(_kinds(), 1)}
    (root / "data").mkdir(parents=True)
    for view in views(seed):
        height, width = view.pixels.shape[:2]
        name, number = f"{view.name}.jpg", int(view.name)
        Image.fromarray(view.pixels).save(root / "data" / name, quality=JPEG_QUALITY)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        points = [[*map(round, p), 2] if seen else [0, 0, 0] for p, seen in zip(view.points, view.visible, strict=True)]
        x1, y1, x2, y2 = view.box
        record = {"id": number, "image_id": number, "category_id": categories[view.kind][0], "iscrowd": 0}
        record |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "num_keypoints": int(view.visible.sum())}  # type: ignore[dict-item]
        annotations.append(record | {"keypoints": [int(value) for point in points for value in point]})
    named = [{"id": n, "name": kind, "supercategory": family} for kind, (n, family) in categories.items()]
    (root / "annotations").mkdir()
    document = {"images": images, "annotations": annotations, "categories": named}
    (root / "annotations" / "ap10k-train-split1.json").write_text(json.dumps(document), encoding="utf-8")


def build_pf_pascal(root: Path, seed: int) -> None:
    """Write the sample in PF-Pascal's layout into `root`, split "test"; the classes are the first of its twenty."""
    from ditf.datasets.pf_pascal import CLASSES, COLUMNS, FOLDER

    shown: dict[str, list[View]] = {}
    for view in views(seed):
        shown.setdefault(view.kind, []).append(view)
    (root / "JPEGImages").mkdir(parents=True)
    lines: list[list[object]] = []
    for number, seen in enumerate(shown.values()):
        folder = root / "Annotations" / CLASSES[number]
        folder.mkdir(parents=True)
        for view in seen:
            Image.fromarray(view.pixels).save(root / "JPEGImages" / f"{view.name}.jpg", quality=JPEG_QUALITY)
            points = np.where(view.visible[:, None], view.points, np.nan)
            content = io.BytesIO()
            scipy.io.savemat(content, {"kps": points, "bbox": np.array([view.box], np.float64)})
            data = MAT_HEADER + content.getvalue()[len(MAT_HEADER) :]  # its own header has the time of day
            (folder / f"{view.name}.mat").write_bytes(data)
        for source, target in permutations(seen, 2):
            both = source.visible & target.visible
            columns = [
                ";".join(f"{v:.4f}" for v in one.points[both, axis]) for one in (source, target) for axis in (0, 1)
            ]
            names = [f"{FOLDER}/JPEGImages/{one.name}.jpg" for one in (source, target)]
            lines.append([*names, number + 1, *columns])
    _write_csv(root / "test_pairs_pf_pascal.csv", COLUMNS, lines)


def build_pf_willow(root: Path, seed: int) -> None:
    """Write the sample in PF-Willow's layout into `root`: the points that all views of a photograph show."""
    from ditf.datasets.pf_willow import COLUMNS, POINTS, PREFIX

    shown: dict[str, list[View]] = {}
    for view in views(seed):
        shown.setdefault(view.kind, []).append(view)
    lines: list[list[object]] = []
    for kind, seen in shown.items():
        folder = root / f"{kind}(S)"
        folder.mkdir(parents=True)
        common = np.flatnonzero(np.logical_and.reduce([view.visible for view in seen]))[:POINTS]
        for view in seen:
            Image.fromarray(view.pixels).save(folder / f"{view.name}.png", compress_level=PNG_COMPRESSION)
        for source, target in permutations(seen, 2):
            names = [f"{PREFIX}{folder.name}/{one.name}.png" for one in (source, target)]
            values = [f"{v:.4f}" for one in (source, target) for axis in (0, 1) for v in one.points[common, axis]]
            lines.append([*names, *values])
    _write_csv(root / "test_pairs.csv", COLUMNS, lines)


def build_ade20k(root: Path, seed: int) -> None:
    """Write a sample of semantic segmentation into `root`, in ADE20K's layout.

    Scenes are made of pieces of four photographs, their classes 1 to 4; a frame of 0 is ignored.
    """
    textures = [shrink(PHOTOS[name].load(), PHOTO_SIDE) for name in ("coffee", "cat", "motorcycle", "galaxy")]
    width, height, frame = 160, 128, 4
    for part, count in (("training", 16), ("validation", 8)):
        rng = np.random.default_rng([seed, count])
        folders = [root / kind / part for kind in ("images", "annotations")]
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(count):
            image, mask = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
            across, down = rng.integers(48, width - 48), rng.integers(40, height - 40)
            kinds = rng.permutation(len(textures))
            for kind, (rows, columns) in zip(
                kinds,
                ((r, c) for r in (slice(down), slice(down, None)) for c in (slice(across), slice(across, None))),
                strict=True,
            ):
                h, w = mask[rows, columns].shape
                texture = textures[kind]
                y, x = rng.integers(texture.shape[0] - h), rng.integers(texture.shape[1] - w)
                image[rows, columns], mask[rows, columns] = texture[y : y + h, x : x + w], kind + 1
            inner = np.zeros_like(mask)
            inner[frame:-frame, frame:-frame] = mask[frame:-frame, frame:-frame]
            Image.fromarray(image).save(folders[0] / f"{part}_{number:03d}.jpg", quality=JPEG_QUALITY)
            Image.fromarray(inner).save(folders[1] / f"{part}_{number:03d}.png")


def _kinds() -> list[tuple[str, str]]:
    return [(family, kind) for family, names in PHOTO_FOLDERS.items() for kind in names]


def _write_csv(path: Path, columns: tuple[str, ...], lines: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *lines])
