"""Sample data in the official layouts, made from the photographs that scikit-image ships, with a seed.

Correspondence: photographs and warped, cropped and recoloured versions of them, with keypoints known from the warp.
Video: textured objects that move, turn and partly cover each other over a photograph, with exact masks.
A folder: the photographs themselves.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import RGB, shrink
from ditf.data.masks import save_mask

Floats = NDArray[np.float32]

PHOTO_SIDE = 320  # longer side of a photograph, in pixels
WARPS = 7  # warped versions of each photograph
KEYPOINTS = (5, 10)  # fewest, and one more than most, a pair
FRAME_SIZE = (416, 240)
FRAMES = 12
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Photo:
    """A photograph: how to load it, what it shows, and the box of its object as fractions of its sides."""

    load: Callable[[], RGB]
    caption: str
    box: tuple[float, float, float, float]


PHOTOS = {
    "astronaut": Photo(skimage.data.astronaut, "a portrait of an astronaut before a flag", (0.1, 0.0, 0.9, 1.0)),
    "cat": Photo(skimage.data.cat, "a close-up photo of a tabby cat", (0.1, 0.0, 0.85, 1.0)),
    "coffee": Photo(skimage.data.coffee, "a cup of coffee on a wooden table", (0.2, 0.05, 0.85, 0.95)),
    "galaxy": Photo(skimage.data.hubble_deep_field, "many distant galaxies", (0.05, 0.05, 0.95, 0.95)),
    "motorcycle": Photo(
        lambda: skimage.data.stereo_motorcycle()[0], "a motorcycle in a garage", (0.1, 0.05, 0.9, 0.95)
    ),
    "rocket": Photo(skimage.data.rocket, "a rocket on its launch pad", (0.3, 0.0, 0.75, 1.0)),
}


PHOTO_FOLDERS = {
    "space": ("astronaut", "galaxy", "rocket"),
    "still life": ("coffee",),
    "animal": ("cat",),
    "vehicle": ("motorcycle",),
}


def build_spair(root: Path, seed: int) -> None:
    """Write the correspondence sample into `root`, in SPair-71k's layout.

    Split "test" leads from a photograph to its warps, and "val" back.
    """
    test, val = (root / "PairAnnotation" / split for split in ("test", "val"))
    for annotations in (test, val):
        annotations.mkdir(parents=True)
    captions: dict[str, str] = {}
    number = 0
    for offset, (category, photo) in enumerate(PHOTOS.items()):
        rng = np.random.default_rng([seed, offset])
        folder = root / "JPEGImages" / category
        folder.mkdir(parents=True)
        image = shrink(photo.load(), PHOTO_SIDE)
        height, width = image.shape[:2]
        box = tuple(round(f * s) for f, s in zip(photo.box, (width, height) * 2, strict=True))
        names = [f"{category}_{i:02d}.jpg" for i in range(WARPS + 1)]
        Image.fromarray(image).save(folder / names[0], quality=JPEG_QUALITY)
        for name in names[1:]:
            number += 1
            warped, pair = _warped_pair(image, box, rng)
            Image.fromarray(warped).save(folder / name, quality=JPEG_QUALITY)
            label = f"{number:06d}-{Path(names[0]).stem}-{Path(name).stem}:{category}"
            record = {
                "filename": label,
                "src_imname": names[0],
                "trg_imname": name,
                "src_imsize": [width, height, 3],
                "trg_imsize": [warped.shape[1], warped.shape[0], 3],
                "category": category,
                **pair,
            }
            (test / f"{label}.json").write_text(json.dumps(record), encoding="utf-8")
            label = f"{number:06d}-{Path(name).stem}-{Path(names[0]).stem}:{category}"
            sides = {"src": "trg", "trg": "src"}
            back = {sides.get(key[:3], key[:3]) + key[3:]: value for key, value in record.items()}
            (val / f"{label}.json").write_text(json.dumps(back | {"filename": label}), encoding="utf-8")
        captions |= {category + name: photo.caption for name in names}
    (root / "captions.json").write_text(json.dumps(captions, indent=1), encoding="utf-8")


def build_davis(root: Path, seed: int) -> None:
    """Write the video sample into `root`, in DAVIS-2017's layout, split "val"."""
    scenes = {
        "one-disc": ("coffee", [("ellipse", "rocket")]),
        "two-cross": ("motorcycle", [("ellipse", "cat"), ("box", "astronaut")]),
        "three-turn": ("cat", [("box", "motorcycle"), ("star", "coffee"), ("ellipse", "galaxy")]),
    }
    for offset, (name, (background, objects)) in enumerate(scenes.items()):
        rng = np.random.default_rng([seed, 1000 + offset])
        frames, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        backdrop = _cover(PHOTOS[background].load(), (FRAME_SIZE[0] + 40, FRAME_SIZE[1] + 20))
        movers = [_Mover.random(rng, shape, texture, len(objects), i) for i, (shape, texture) in enumerate(objects)]
        for frame in range(FRAMES):
            image = backdrop[frame // 2 :, frame:][: FRAME_SIZE[1], : FRAME_SIZE[0]].copy()
            mask = np.zeros(image.shape[:2], np.uint8)
            for index, mover in enumerate(movers, 1):
                covered, colours = mover.draw(frame)
                image[covered], mask[covered] = colours[covered], index
            Image.fromarray(image).save(frames / f"{frame:05d}.jpg", quality=JPEG_QUALITY)
            save_mask(masks / f"{frame:05d}.png", mask)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(scenes) + "\n", encoding="utf-8")


def build_photos(root: Path) -> None:
    """Write the photographs themselves into `root`, in folders by what they show, and their prompts.

    Bytes and prompts are those of the first images of the correspondence sample: their features are the same.
    """
    lines = ["path,prompt"]
    for kind, names in PHOTO_FOLDERS.items():
        (root / kind).mkdir(parents=True)
        for name in names:
            image = shrink(PHOTOS[name].load(), PHOTO_SIDE)
            Image.fromarray(image).save(root / kind / f"{name}.jpg", quality=JPEG_QUALITY)
            lines.append(f"{kind}/{name}.jpg,{PHOTOS[name].caption}")
    (root / "prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _warped_pair(image: RGB, box: tuple[int, ...], rng: Generator) -> tuple[RGB, dict[str, Any]]:
    """A warped version of a photograph, and the pair's boxes, keypoints and grades."""
    count = int(rng.integers(*KEYPOINTS))
    while True:
        scale, tilt = rng.uniform(0.6, 1.0), rng.uniform(0.0, 0.18)
        source_x, source_y = _warp(image.shape[1], image.shape[0], scale, tilt, rng)
        keypoints = _keypoints(image, box, source_x, source_y, rng)[:count]
        if len(keypoints) == count:
            break
    warped = cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    x1, y1, x2, y2 = box
    shown = (source_x >= x1) & (source_x < x2) & (source_y >= y1) & (source_y < y2)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    target_box = [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    cut = sum(
        (target_box[0] == 0, target_box[1] == 0, target_box[2] == shown.shape[1], target_box[3] == shown.shape[0])
    )
    return _recolour(warped, rng), {
        "src_bndbox": list(box),
        "trg_bndbox": target_box,
        "src_kps": [[x, y] for x, y, _, _ in keypoints],
        "trg_kps": [[x, y] for _, _, x, y in keypoints],
        "kps_ids": [str(i) for i in range(len(keypoints))],
        "viewpoint_variation": min(2, int(tilt / 0.06)),
        "scale_variation": min(2, int((1 - scale) / 0.134)),
        "truncation": min(3, cut),
        "occlusion": 0,
        "mirror": 0,
    }


def _warp(width: int, height: int, scale: float, tilt: float, rng: Generator) -> tuple[Floats, Floats]:
    """Where each target pixel comes from: a perspective view of a part, bent by smooth waves; two maps [h, w]."""
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
    """Corners of the photograph inside the box, each with the target pixel that shows just that pixel."""
    inner = np.zeros(image.shape[:2], np.uint8)
    inner[box[1] + 4 : box[3] - 4, box[0] + 4 : box[2] - 4] = 255
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(grey, 60, 0.02, 14, mask=inner)
    found = []
    for x, y in rng.permutation(corners.reshape(-1, 2)).astype(int):
        distance = np.maximum(np.abs(source_x - x), np.abs(source_y - y))
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        if distance[row, column] <= 0.5:
            found.append((int(x), int(y), int(column), int(row)))
    return found


def _recolour(image: RGB, rng: Generator) -> RGB:
    gamma, gains = rng.uniform(0.75, 1.3), rng.uniform(0.85, 1.1, 3)
    return (np.clip((image / 255) ** gamma * gains, 0, 1) * 255).round().astype(np.uint8)


def _cover(image: RGB, size: tuple[int, int]) -> RGB:
    """Scale a photograph so that it covers `size` (width, height), and cut off the rest."""
    scale = max(size[0] / image.shape[1], size[1] / image.shape[0])
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(large[: size[1], : size[0]])


@dataclass(frozen=True)
class _Mover:
    """An object that moves in a straight line and turns."""

    shape: str
    texture: RGB
    start: NDArray[np.float64]
    speed: NDArray[np.float64]
    radius: float
    angle: float
    spin: float

    @classmethod
    def random(cls, rng: Generator, shape: str, texture: str, count: int, index: int) -> "_Mover":
        """The object number `index` of `count`: they start side by side and drift towards the middle."""
        size = np.array(FRAME_SIZE)
        start = np.array([(index + 1) / (count + 1), rng.uniform(0.4, 0.6)]) * size
        speed = (size / 2 - start) * 0.07 + rng.uniform(-1, 1, 2) * (5, 2)
        photo = shrink(PHOTOS[texture].load(), 160)
        return cls(
            shape,
            photo,
            start,
            speed,
            rng.uniform(38, 55),
            rng.uniform(-1, 1),
            rng.choice((-1, 1)) * rng.uniform(0.03, 0.07),
        )

    def draw(self, frame: int) -> tuple[NDArray[np.bool_], RGB]:
        """Which pixels the object covers in a frame, [h, w], and its colours there, [h, w, 3]."""
        y, x = np.mgrid[: FRAME_SIZE[1], : FRAME_SIZE[0]]
        position, angle = self.start + frame * self.speed, self.angle + frame * self.spin
        dx, dy = (x - position[0]) / self.radius, (y - position[1]) / self.radius
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        height, width = self.texture.shape[:2]
        colours = cv2.remap(
            self.texture,
            ((u + 1.2) / 2.4 * width).astype(np.float32),
            ((v + 1.2) / 2.4 * height).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        if self.shape == "ellipse":
            covered = u**2 + (v / 0.8) ** 2 < 1
        elif self.shape == "box":
            covered = (np.abs(u) < 0.9) & (np.abs(v) < 0.7)
        else:
            covered = np.hypot(u, v) < 0.8 + 0.25 * np.cos(5 * np.arctan2(v, u))
        return covered, np.asarray(colours)
