"""Compose pairs of views of one scene, with exact correspondences between them.

A scene is a photograph with up to three cut-out objects in front. Both views show it through different perspective
transforms, and each object moves on its own between them. Every point knows its layer and its place in that layer,
so its position in the other view is exact.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from miniature.photographs import Picture

TOKEN = 16  # pixels of one side of a token
OBJECTS = (0.35, 0.35, 0.2, 0.1)  # probability of 0, 1, 2 and 3 objects
SIZES = (  # height, width, probability
    (256, 256, 0.55),
    (320, 320, 0.15),
    (256, 384, 0.1),
    (384, 256, 0.1),
    (480, 480, 0.1),
)

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """Two views of one scene.

    Attributes:
        images: Both views, uint8 [2, h, w, 3].
        targets: Position in the second view of each token centre of the first, in tokens, float32 [tokens, 2] as x, y.
            NaN where the point is hidden or outside.
        caption: What the scene shows.
    """

    images: Image
    targets: NDArray[np.float32]
    caption: str


@dataclass(frozen=True)
class _Layer:
    """One layer of a scene: an image pyramid, and its transform into each view (3x3, from pixels of level 0)."""

    levels: tuple[Image, ...]
    transforms: tuple[Floats, Floats]


def batch(photographs: list[Picture], objects: list[Picture], tokens: int, rng: Generator) -> list[Pair]:
    """Return the pairs of one training step; all views have the same size.

    Args:
        photographs: Backgrounds.
        objects: Cut-out objects.
        tokens: Number of tokens in all views, which decides how many pairs there are.
        rng: Random generator, which decides everything.
    """
    height, width, _ = SIZES[rng.choice(len(SIZES), p=[p for *_, p in SIZES])]
    pairs = max(1, tokens * TOKEN**2 // (2 * height * width))
    return [pair(photographs, objects, height, width, rng) for _ in range(pairs)]


def pair(photographs: list[Picture], objects: list[Picture], height: int, width: int, rng: Generator) -> Pair:
    """Return two views of a random scene.

    Args:
        photographs: Backgrounds.
        objects: Cut-out objects.
        height: Height of the views in pixels.
        width: Width of the views in pixels.
        rng: Random generator.
    """
    background = photographs[rng.integers(len(photographs))]
    layers = [_background(background, height, width, rng)]
    captions = [background.caption]
    for _ in range(rng.choice(len(OBJECTS), p=OBJECTS)):
        thing = objects[rng.integers(len(objects))]
        layers.append(_object(thing, height, width, rng))
        captions.append(thing.caption)
    rendered = [_render(layers, view, height, width) for view in (0, 1)]
    targets = _correspondences(layers, [numbers for _, numbers in rendered], height, width)
    grey = rng.random() < 0.08
    images = np.stack([_recolour(image, grey, rng) for image, _ in rendered])
    return Pair(images, targets, " and ".join(reversed(captions)))


def _background(picture: Picture, height: int, width: int, rng: Generator) -> _Layer:
    rows, columns = picture.levels[0].shape[:2]
    area = np.exp(rng.uniform(np.log(0.06), 0))
    aspect = width / height
    crop_height = min(np.sqrt(area * rows * columns / aspect), rows, columns / aspect)
    crop = np.array([crop_height * aspect, crop_height])
    centre = crop / 2 + rng.random(2) * (np.array([columns, rows]) - crop)
    flip = rng.random() < 0.5
    common = rng.uniform(-0.25, 0.25)
    transforms = []
    for view in (0, 1):
        scale = np.exp(rng.uniform(-0.45, 0.1)) if view else 1.0
        shift = rng.uniform(-0.22, 0.22, 2) * crop if view else 0.0
        angle = common + (rng.uniform(-0.44, 0.44) if view and rng.random() < 0.8 else 0.0)
        corners = _corners(crop * scale, angle, 0.14, rng) + centre + shift
        if flip:
            corners = corners[[1, 0, 3, 2]]
        transforms.append(_to_view(corners, height, width))
    return _Layer(picture.levels, (transforms[0], transforms[1]))


def _object(picture: Picture, height: int, width: int, rng: Generator) -> _Layer:
    rows, columns = picture.levels[0].shape[:2]
    view = np.array([width, height])
    size = np.array([columns, rows]) / max(rows, columns) * np.exp(rng.uniform(np.log(0.25), np.log(0.9)))
    size = size * min(height, width)
    centre = rng.uniform(0.15, 0.85, 2) * view
    flip = rng.random() < 0.5
    common = rng.uniform(-0.3, 0.3)
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    transforms = []
    for number in (0, 1):
        scale = np.exp(rng.uniform(-0.35, 0.35)) if number else 1.0
        shift = rng.uniform(-0.25, 0.25, 2) * view if number else 0.0
        angle = common + (rng.uniform(-0.35, 0.35) if number else 0.0)
        corners = _corners(size * scale, angle, 0.12, rng) + centre + shift
        if flip:
            corners = corners[[1, 0, 3, 2]]
        transforms.append(cv2.getPerspectiveTransform(source, corners.astype(np.float32)))
    return _Layer(picture.levels, (transforms[0], transforms[1]))


def _corners(size: Floats, angle: float, tilt: float, rng: Generator) -> Floats:
    """Return the corners of a turned and tilted rectangle around the origin, [4, 2], clockwise from top left."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size / 2
    corners = corners + rng.uniform(-1, 1, (4, 2)) * rng.uniform(0, tilt) * min(size)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(corners @ turn.T)


def _to_view(corners: Floats, height: int, width: int) -> Floats:
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return np.asarray(cv2.getPerspectiveTransform(corners.astype(np.float32), target))


def _render(layers: list[_Layer], view: int, height: int, width: int) -> tuple[Image, Image]:
    """Return a view, uint8 [h, w, 3], and the number of the visible layer at each pixel, uint8 [h, w]."""
    image = np.zeros((height, width, 3), np.uint8)
    numbers = np.zeros((height, width), np.uint8)
    for number, layer in enumerate(layers):
        transform = layer.transforms[view]
        full = layer.levels[0].shape[:2]
        # The area of a layer's centre pixel in the view tells how much smaller than level 0 a level may be.
        x, y = full[1] / 2, full[0] / 2
        moved = cv2.perspectiveTransform(np.array([[[x, y], [x + 1, y], [x, y + 1]]]), transform)[0]
        shrink = 1 / max(1e-3, np.sqrt(abs(np.linalg.det(moved[1:] - moved[0]))))
        level = int(np.clip(np.round(np.log2(max(shrink, 1e-3))), 0, len(layer.levels) - 1))
        source = layer.levels[level]
        factor = np.diag([full[1] / source.shape[1], full[0] / source.shape[0], 1.0])
        border = cv2.BORDER_CONSTANT if number else cv2.BORDER_REFLECT_101
        warped = cv2.warpPerspective(
            source, transform @ factor, (width, height), flags=cv2.INTER_LINEAR, borderMode=border
        )
        if number:
            alpha = warped[..., 3].astype(np.float32) / 255
            image = cv2.blendLinear(np.ascontiguousarray(warped[..., :3]), image, alpha, 1 - alpha)
            numbers[warped[..., 3] > 127] = number
        else:
            image = warped
    return image, numbers


def _correspondences(layers: list[_Layer], numbers: list[Image], height: int, width: int) -> NDArray[np.float32]:
    y, x = np.mgrid[: height // TOKEN, : width // TOKEN]
    centres = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * TOKEN
    rows, columns = centres.T.astype(int)[::-1]
    seen = numbers[0][rows, columns]
    targets = np.full(centres.shape, np.nan, np.float32)
    for number, layer in enumerate(layers):
        chosen = np.flatnonzero(seen == number)
        if not len(chosen):
            continue
        between = layer.transforms[1] @ np.linalg.inv(layer.transforms[0])
        moved = cv2.perspectiveTransform(centres[None, chosen], between)[0]
        inside = ((moved >= 0) & (moved < (width, height))).all(1)
        if not number:
            # The background is reflected beyond its border, where the transform no longer tells what is shown.
            back = cv2.perspectiveTransform(centres[None, chosen], np.linalg.inv(layer.transforms[0]))[0]
            inside &= ((back >= 0) & (back < layer.levels[0].shape[1::-1])).all(1)
        column, row = moved[inside].astype(int).T
        visible = numbers[1][row, column] == number
        targets[chosen[inside][visible]] = moved[inside][visible] / TOKEN - 0.5
    return targets


def _recolour(image: Image, grey: bool, rng: Generator) -> Image:
    colours = image
    if grey:
        colours = cv2.cvtColor(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.85:
        saturation, contrast = rng.uniform(0.6, 1.3), rng.uniform(0.75, 1.2)
        mix = contrast * (saturation * np.eye(3) + (1 - saturation) / 3)
        mean = np.array(cv2.mean(colours)[:3])
        colours = cv2.transform(colours, np.concatenate([mix, (mean - mix @ mean)[:, None]], 1))
        curve = (np.arange(256) / 255) ** rng.uniform(0.7, 1.4)
        table = np.clip(curve[:, None] * rng.uniform(0.82, 1.12, 3) * 255, 0, 255).round().astype(np.uint8)
        colours = cv2.LUT(colours, table[None])
    if rng.random() < 0.15:
        colours = cv2.GaussianBlur(colours, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.15:
        noise = rng.standard_normal(colours.shape, np.float32) * np.float32(rng.uniform(1, 8))
        colours = np.clip(colours + noise, 0, 255).round().astype(np.uint8)
    return np.asarray(colours)
