"""A sample in the layout of DAVIS-2017, with exact masks.

In three sequences, textured shapes move and turn over a photograph. In "car-behind-pillar" a pillar hides a part of the
object for some frames, and in "dog-runs" the object moves fast and changes its shape.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import RGB, shrink
from ditf.data.masks import save_mask
from ditf.sample.objects import Object, car, dog
from ditf.sample.photographs import JPEG_QUALITY, PHOTOS
from ditf.sample.render import Camera, render
from ditf.sample.scenes import moved, surface, surroundings

FRAME_SIZE = (416, 240)
FRAMES = 8
PILLAR = (190, 250)  # first and last column


def build_davis(root: Path, seed: int) -> None:
    """Write the sample into `root` as the split "val"."""
    scenes = {
        "one-disc": ("coffee", [("ellipse", "rocket")]),
        "two-cross": ("motorcycle", [("ellipse", "cat"), ("box", "astronaut")]),
        "three-turn": ("cat", [("box", "motorcycle"), ("star", "coffee"), ("ellipse", "galaxy")]),
    }
    for offset, (name, (background, objects)) in enumerate(scenes.items()):
        rng = np.random.default_rng([seed, 1000 + offset])
        backdrop = _cover(PHOTOS[background].load(), (FRAME_SIZE[0] + 40, FRAME_SIZE[1] + 20))
        movers = [_Mover.random(rng, shape, texture, len(objects), i) for i, (shape, texture) in enumerate(objects)]
        for frame in range(FRAMES):
            image = backdrop[frame // 2 :, frame:][: FRAME_SIZE[1], : FRAME_SIZE[0]].copy()
            mask = np.zeros(image.shape[:2], np.uint8)
            for index, mover in enumerate(movers, 1):
                covered, colors = mover.draw(frame)
                image[covered], mask[covered] = colors[covered], index
            _write_frame(root, name, frame, image, mask)
    rendered = {"car-behind-pillar": _car_behind_pillar, "dog-runs": _running_dog}
    for name, draw in rendered.items():
        for frame in range(FRAMES):
            _write_frame(root, name, frame, *draw(frame, seed))
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join([*scenes, *rendered]) + "\n", encoding="utf-8")


def _write_frame(root: Path, sequence: str, frame: int, image: RGB, mask: RGB) -> None:
    """Write a frame and its mask."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p" / sequence).mkdir(parents=True, exist_ok=True)
    path = root / "JPEGImages" / "480p" / sequence / f"{frame:05d}.jpg"
    Image.fromarray(image).save(path, quality=JPEG_QUALITY)
    save_mask(root / "Annotations" / "480p" / sequence / f"{frame:05d}.png", mask)


def _car_behind_pillar(frame: int, seed: int) -> tuple[RGB, RGB]:
    """Return a frame in which a car drives to the right behind a pillar, and its mask."""
    image, mask = _rendered_frame(moved(car(np.random.default_rng([seed, 3000]), 0), -5.0 + 1.2 * frame, 0.0), 19.0, 0)
    left, right = PILLAR
    image[:, left:right] = cv2.resize(surface("marble"), (right - left, FRAME_SIZE[1])) // 3 * 2
    mask[:, left:right] = 0
    return image, mask


def _running_dog(frame: int, seed: int) -> tuple[RGB, RGB]:
    """Return a frame in which a dog runs to the right, and its mask."""
    animal = dog(np.random.default_rng([seed, 3001]), 0, phase=1.3 * frame)
    return _rendered_frame(moved(animal, -1.75 + 0.5 * frame, 0.0), 6.4, 1)


def _rendered_frame(item: Object, distance: float, number: int) -> tuple[RGB, RGB]:
    """Return an image of an object as seen from its right side, and its mask."""
    camera = Camera(np.array([0.0, 0.0, 0.05 * distance]), -np.pi / 2, 0.2, distance, 500.0, FRAME_SIZE)
    view = surroundings(np.random.default_rng(number), number + 3, 0.2 * distance)
    rendering = render(item.mesh, camera, *view)
    return rendering.pixels, rendering.covered.astype(np.uint8)


def _cover(image: RGB, size: tuple[int, int]) -> RGB:
    """Scale a photograph so that it covers `size` (width, height), and crop it."""
    scale = max(size[0] / image.shape[1], size[1] / image.shape[0])
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(large[: size[1], : size[0]])


@dataclass(frozen=True)
class _Mover:
    """An object that moves in a straight line and turns.

    Attributes:
        shape: "ellipse", "box" or "star".
        texture: Its surface.
        start: Position in the first frame, (x, y) in pixels.
        speed: Pixels per frame, (x, y).
        radius: Half of its extent, in pixels.
        angle: Rotation in the first frame, in radians.
        spin: Radians per frame.
    """

    shape: str
    texture: RGB
    start: NDArray[np.float64]
    speed: NDArray[np.float64]
    radius: float
    angle: float
    spin: float

    @classmethod
    def random(cls, rng: Generator, shape: str, texture: str, count: int, index: int) -> "_Mover":
        """Return object number `index` of `count`. All start side by side and drift towards the middle."""
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
        """Return which pixels the object covers in a frame, [h, w], and its colors there, [h, w, 3]."""
        y, x = np.mgrid[: FRAME_SIZE[1], : FRAME_SIZE[0]]
        position, angle = self.start + frame * self.speed, self.angle + frame * self.spin
        dx, dy = (x - position[0]) / self.radius, (y - position[1]) / self.radius
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        height, width = self.texture.shape[:2]
        colors = cv2.remap(
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
        return covered, np.asarray(colors)
