"""Scenes with rendered objects. Grounds and backdrops are pieces of the photographs."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ditf.data.images import RGB
from ditf.sample.objects import KINDS, Object
from ditf.sample.photographs import PHOTOS
from ditf.sample.render import Camera, Floats, Rendering, render

SIZE = (320, 240)
# Directions from an object to its camera, in degrees; 0 is in front of the object, positive angles are on its left.
AZIMUTHS = (40, 70, 20, 100, -40)
JITTER = 12  # degrees
FOCAL = 400.0
TOLERANCE = 0.05  # how far behind the visible surface a visible keypoint may lie, as a fraction of the object's radius
# Pieces of photographs that are nothing but a surface: (photograph, rows, columns).
SURFACES = {
    "wood": ("coffee", slice(90, 390), slice(500, 600)),
    "concrete": ("motorcycle", slice(445, 495), slice(20, 420)),
    "marble": ("astronaut", slice(30, 200), slice(305, 370)),
}
BACKDROPS = ("motorcycle", "cat", "coffee", "astronaut", "rocket")


@dataclass(frozen=True)
class ObjectView:
    """An image of an object.

    Attributes:
        kind: Kind of the object, such as "car".
        name: Name of the image, such as "car_01".
        pixels: The image, [h, w, 3].
        covered: Pixels that show the object, [h, w].
        keypoints: Visible keypoints by name, (x, y) in pixels.
        azimuth: Direction from the object to the camera, in degrees.
    """

    kind: str
    name: str
    pixels: RGB
    covered: NDArray[np.bool_]
    keypoints: dict[str, tuple[int, int]]
    azimuth: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return the box around the object, (x1, y1, x2, y2)."""
        rows, columns = np.flatnonzero(self.covered.any(1)), np.flatnonzero(self.covered.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def object_views(kind: str, seed: int) -> list[ObjectView]:
    """Render different objects of a kind, each with its own shape, color, viewpoint, light and surroundings."""
    offset = list(KINDS).index(kind)
    views = []
    for number, base in enumerate(AZIMUTHS):
        rng = np.random.default_rng([seed, 2000 + offset, number])
        item = KINDS[kind](rng, number)
        azimuth = base + rng.uniform(-JITTER, JITTER)
        camera = _camera(item, azimuth, rng)
        rendering = render(item.mesh, camera, *surroundings(rng, number + offset, radius_of(item)))
        keypoints = visible_keypoints(item, camera, rendering)
        views.append(ObjectView(kind, f"{kind}_{number:02d}", rendering.pixels, rendering.covered, keypoints, azimuth))
    return views


def visible_keypoints(item: Object, camera: Camera, rendering: Rendering) -> dict[str, tuple[int, int]]:
    """Return the keypoints that a rendered image shows, (x, y) in pixels."""
    positions = camera.project(np.array(list(item.keypoints.values())))
    shown = rendering.shows(positions, TOLERANCE * radius_of(item))
    pixels = np.floor(positions[:, :2]).astype(int)
    return {
        name: (int(x), int(y)) for name, (x, y), visible in zip(item.keypoints, pixels, shown, strict=True) if visible
    }


def radius_of(item: Object) -> float:
    """Return the largest distance of a vertex from the middle of the object's box."""
    return float(np.linalg.norm(item.mesh.points - _middle(item), axis=1).max())


def surroundings(rng: Generator, number: int, radius: float) -> tuple[Floats, RGB, RGB, float]:
    """Return a direction of light, a backdrop, a ground and the extent of its texture, as `render` takes them.

    Args:
        rng: Source of random numbers.
        number: Number that chooses the photographs.
        radius: Radius of the object.
    """
    light = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), 1.6])
    backdrop = PHOTOS[BACKDROPS[number % len(BACKDROPS)]].load()
    return light / np.linalg.norm(light), backdrop, surface(list(SURFACES)[number % len(SURFACES)]), 4 * radius


def surface(name: str) -> RGB:
    """Return a texture without seams: a piece of a photograph and its mirror images."""
    photograph, rows, columns = SURFACES[name]
    piece = cv2.resize(PHOTOS[photograph].load()[rows, columns], (128, 128), interpolation=cv2.INTER_AREA)
    half = np.concatenate([piece, piece[:, ::-1]], 1)
    return np.concatenate([half, half[::-1]])


def moved(item: Object, x: float, y: float) -> Object:
    """Return an object at another place on the ground."""
    shift = np.array([x, y, 0.0])
    keypoints = {name: (px + x, py + y, pz) for name, (px, py, pz) in item.keypoints.items()}
    return Object(replace(item.mesh, points=item.mesh.points + shift), keypoints)


def _middle(item: Object) -> Floats:
    return (item.mesh.points.min(0) + item.mesh.points.max(0)) / 2


def _camera(item: Object, azimuth: float, rng: Generator) -> Camera:
    """Return a camera that sees the whole object, at a random height and distance."""
    elevation, extent = rng.uniform(0.15, 0.5), rng.uniform(88, 112)  # extent: radius of the object in the image
    distance = FOCAL * radius_of(item) / extent
    return Camera(_middle(item), np.deg2rad(azimuth), elevation, distance, FOCAL, SIZE)
