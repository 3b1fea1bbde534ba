"""A sample in the layout of SPair-71k, in two parts.

The easy part has photographs, and warped, cropped and recolored versions of them. The keypoints of a pair are known
from the warp, and its viewpoint variation is 0. The hard part has rendered objects: two different cars, chairs, dogs or
mugs from two viewpoints. Their keypoints are known from the geometry, and their viewpoint variation is 1 or 2.
"""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import RGB
from ditf.sample.objects import KINDS
from ditf.sample.photographs import JPEG_QUALITY, PHOTOS
from ditf.sample.scenes import ObjectView, object_views

Floats = NDArray[np.float32]

WARPS = 7  # warped versions of each photograph
KEYPOINTS = (5, 10)  # each pair has 5 to 9 keypoints
SHARED = 3  # keypoints that both images of a pair of objects show, at least
MEDIUM_TURN = 60  # degrees between two viewpoints; the variation is "hard" above


def build_spair(root: Path, seed: int) -> None:
    """Write the sample into `root`.

    The pairs of split "test" lead from a photograph to its warps, and from an object to those after it. Those of split
    "val" lead back.
    """
    for split in ("test", "val"):
        (root / "PairAnnotation" / split).mkdir(parents=True)
    captions: dict[str, str] = {}
    number = 0
    for offset, (category, photo) in enumerate(PHOTOS.items()):
        rng = np.random.default_rng([seed, offset])
        folder = root / "JPEGImages" / category
        folder.mkdir(parents=True)
        image = photo.pixels()
        height, width = image.shape[:2]
        box = tuple(round(f * s) for f, s in zip(photo.box, (width, height) * 2, strict=True))
        names = [f"{category}_{i:02d}.jpg" for i in range(WARPS + 1)]
        Image.fromarray(image).save(folder / names[0], quality=JPEG_QUALITY)
        for name in names[1:]:
            number += 1
            warped, pair = _warped_pair(image, box, rng)
            Image.fromarray(warped).save(folder / name, quality=JPEG_QUALITY)
            sizes = {"src_imsize": [width, height, 3], "trg_imsize": [warped.shape[1], warped.shape[0], 3]}
            _write_pair(root, number, category, (names[0], name), sizes | pair)
        captions |= {category + name: photo.caption for name in names}
    for kind in KINDS:
        views = object_views(kind, seed)
        (root / "JPEGImages" / kind).mkdir(parents=True)
        for view in views:
            Image.fromarray(view.pixels).save(root / "JPEGImages" / kind / f"{view.name}.jpg", quality=JPEG_QUALITY)
            captions[f"{kind}{view.name}.jpg"] = f"a {kind}"
        for source, target in combinations(views, 2):
            if len(source.keypoints.keys() & target.keypoints.keys()) >= SHARED:
                number += 1
                names = [f"{view.name}.jpg" for view in (source, target)]
                _write_pair(root, number, kind, (names[0], names[1]), _object_pair(source, target))
    (root / "captions.json").write_text(json.dumps(captions, indent=1), encoding="utf-8")


def _write_pair(root: Path, number: int, category: str, names: tuple[str, str], pair: dict[str, Any]) -> None:
    """Write the annotations of a pair into the split "test", and those of the reversed pair into "val"."""
    record = {"src_imname": names[0], "trg_imname": names[1], "category": category, **pair}
    sides = {"src": "trg", "trg": "src"}
    reverse = {sides.get(key[:3], key[:3]) + key[3:]: value for key, value in record.items()}
    for split, content in (("test", record), ("val", reverse)):
        stems = "-".join(Path(content[f"{side}_imname"]).stem for side in ("src", "trg"))
        label = f"{number:06d}-{stems}:{category}"
        path = root / "PairAnnotation" / split / f"{label}.json"
        path.write_text(json.dumps({"filename": label, **content}), encoding="utf-8")


def _object_pair(source: ObjectView, target: ObjectView) -> dict[str, Any]:
    """Return the sizes, boxes, keypoints and difficulty grades of a pair of rendered objects."""
    shared = [name for name in source.keypoints if name in target.keypoints]
    extents = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (source.box, target.box)]
    turn = abs(source.azimuth - target.azimuth)
    return {
        "src_imsize": [*source.pixels.shape[1::-1], 3],
        "trg_imsize": [*target.pixels.shape[1::-1], 3],
        "src_bndbox": list(source.box),
        "trg_bndbox": list(target.box),
        "src_kps": [list(source.keypoints[name]) for name in shared],
        "trg_kps": [list(target.keypoints[name]) for name in shared],
        "kps_ids": shared,
        "viewpoint_variation": 1 if turn <= MEDIUM_TURN else 2,
        "scale_variation": min(2, int(2 * (max(extents) / min(extents) - 1))),
        "truncation": 0,
        "occlusion": 0,
        "mirror": int(source.azimuth * target.azimuth < 0),
    }


def _warped_pair(image: RGB, box: tuple[int, ...], rng: Generator) -> tuple[RGB, dict[str, Any]]:
    """Return a warped version of a photograph, and the boxes, keypoints and difficulty grades of the pair."""
    count = int(rng.integers(*KEYPOINTS))
    while True:
        scale, tilt = rng.uniform(0.6, 1.0), rng.uniform(0.0, 0.18)
        source_x, source_y = _warp(image.shape[1], image.shape[0], scale, tilt, rng)
        keypoints = _keypoints(image, box, source_x, source_y, rng)[:count]
        if len(keypoints) == count:
            break
    warped = cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    x1, y1, x2, y2 = box
    inside = (source_x >= x1) & (source_x < x2) & (source_y >= y1) & (source_y < y2)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    target_box = [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    height, width = inside.shape
    truncated_sides = sum((target_box[0] == 0, target_box[1] == 0, target_box[2] == width, target_box[3] == height))
    return _recolor(warped, rng), {
        "src_bndbox": list(box),
        "trg_bndbox": target_box,
        "src_kps": [[x, y] for x, y, _, _ in keypoints],
        "trg_kps": [[x, y] for _, _, x, y in keypoints],
        "kps_ids": [str(i) for i in range(len(keypoints))],
        "viewpoint_variation": 0,
        "scale_variation": min(2, int((1 - scale) / 0.134)),
        "truncation": min(3, truncated_sides),
        "occlusion": 0,
        "mirror": 0,
    }


def _warp(width: int, height: int, scale: float, tilt: float, rng: Generator) -> tuple[Floats, Floats]:
    """Return the source x and y of each target pixel, two maps [h, w]: a perspective view, bent by smooth waves."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    centre = corners.mean(0)
    angle = rng.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slack = (1 - scale) / 2 * np.array([width, height])
    moved = (corners - centre) * scale @ turn.T + centre + rng.uniform(-1, 1, 2) * slack
    moved += rng.uniform(-1, 1, (4, 2)) * tilt * min(width, height)
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    points = cv2.perspectiveTransform(np.stack([x, y], -1).reshape(1, -1, 2), matrix)
    source_x, source_y = points.reshape(height, width, 2).transpose(2, 0, 1)
    bend = 0.01 * min(width, height)
    for _ in range(3):
        kx, ky = rng.uniform(-2.5, 2.5, 2) * 2 * np.pi / max(width, height)
        phase, (dx, dy) = rng.uniform(0, 2 * np.pi), rng.uniform(-bend, bend, 2)
        wave = np.sin(kx * x + ky * y + phase)
        source_x, source_y = source_x + dx * wave, source_y + dy * wave
    return source_x.astype(np.float32), source_y.astype(np.float32)


def _keypoints(
    image: RGB, box: tuple[int, ...], source_x: Floats, source_y: Floats, rng: Generator
) -> list[tuple[int, int, int, int]]:
    """Return corners of the photograph inside the box, each with the target pixel that shows it: (x, y, x, y)."""
    inner = np.zeros(image.shape[:2], np.uint8)
    inner[box[1] + 4 : box[3] - 4, box[0] + 4 : box[2] - 4] = 255
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(grey, 60, 0.02, 14, mask=inner)
    keypoints = []
    for x, y in rng.permutation(corners.reshape(-1, 2)).astype(int):
        distance = np.maximum(np.abs(source_x - x), np.abs(source_y - y))
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        if distance[row, column] <= 0.5:
            keypoints.append((int(x), int(y), int(column), int(row)))
    return keypoints


def _recolor(image: RGB, rng: Generator) -> RGB:
    """Change gamma and the gain of each channel."""
    gamma, gains = rng.uniform(0.75, 1.3), rng.uniform(0.85, 1.1, 3)
    return (np.clip((image / 255) ** gamma * gains, 0, 1) * 255).round().astype(np.uint8)
