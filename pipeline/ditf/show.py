"""Figures for notebooks, drawn like those of the report.

Features that a `ditf.Extractor` computed know their image. For features from a store, pass the images as paths, PIL
images or arrays.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  # so that notebooks display figures
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import RGB, read_rgb, to_rgb
from ditf.drawing.features import feature_colours
from ditf.drawing.figures import new_figure
from ditf.drawing.figures import show as show_image
from ditf.drawing.masks import overlay
from ditf.drawing.matches import NamedImage, matches_figure, similarity_figure
from ditf.errors import UserError
from ditf.features.reader import ImageFeatures
from ditf.matching import images as matching
from ditf.types import Descriptor

Picture = Path | str | Image.Image | NDArray[Any]
Points = Iterable[Sequence[int]]
TILE = 3.2  # side of an image in inches


def match(
    source: ImageFeatures,
    target: ImageFeatures,
    points: Points,
    descriptor: Descriptor | None = None,
    channels: Sequence[int] | None = None,
    images: tuple[Picture, Picture] | None = None,
) -> Figure:
    """Draw points of one image and their matches in another; see `ditf.match`.

    Args:
        source: Features of the image with the points.
        target: Features of the image to search.
        points: Pixels (x, y) of the source image, [k, 2].
        descriptor: Descriptor to match. By default "adaln+discard", or "original" for models without AdaLN.
        channels: Channels to discard. By default the source's massive channels.
        images: The two images, for features from a store.

    Returns:
        A matplotlib figure.
    """
    left, right = _pictures((source, target), images)
    rows = matching.match(source, target, points, descriptor, channels).to_pylist()
    lines = [((row["source_x"], row["source_y"]), (row["target_x"], row["target_y"])) for row in rows]
    return matches_figure(NamedImage("source", left), NamedImage("target", right), lines)


def similarity(
    source: ImageFeatures,
    target: ImageFeatures,
    points: Points,
    descriptor: Descriptor | None = None,
    channels: Sequence[int] | None = None,
    images: tuple[Picture, Picture] | None = None,
) -> Figure:
    """Draw how similar every place of one image is to points of another; see `ditf.similarity`.

    The arguments are those of `match`.

    Returns:
        A matplotlib figure with a row per point.
    """
    left, right = _pictures((source, target), images)
    points = [tuple(point) for point in points]
    rows = [
        {
            "point": (row["source_x"], row["source_y"]),
            "match": (row["target_x"], row["target_y"]),
            "similarity": row["similarity"],
        }
        for row in matching.match(source, target, points, descriptor, channels).to_pylist()
    ]
    maps = matching.similarity(source, target, points, descriptor, channels)
    return similarity_figure(NamedImage("source", left), NamedImage("target", right), rows, maps)


def pca(
    features: ImageFeatures | Sequence[ImageFeatures],
    descriptor: Descriptor | None = None,
    channels: Sequence[int] | None = None,
) -> Figure:
    """Draw descriptors as colours: red, green and blue are their first three principal components.

    Each component is oriented so that the tokens along the edges of the images have a negative mean.

    Args:
        features: Features of one image, or of several that share the components.
        descriptor: Descriptor to draw. By default "adaln+discard", or "original" for models without AdaLN.
        channels: Channels to discard. By default the massive channels of each image.

    Returns:
        A matplotlib figure with a column per image. Images that are known are drawn above their colours.
    """
    several = [features] if isinstance(features, ImageFeatures) else list(features)
    maps = [np.moveaxis(each.map(descriptor, channels), 0, -1) for each in several]
    pictures = [each.pixels for each in several]
    known = any(picture is not None for picture in pictures)
    figure = new_figure(TILE * len(several), TILE * (1 + known))
    rows = figure.subplots(1 + known, len(several), squeeze=False)
    for column, (picture, colours) in enumerate(zip(pictures, feature_colours(maps), strict=True)):
        height, width = several[column].size[::-1]
        show_image(rows[-1, column], colours, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        if known:
            rows[0, column].axis("off")
        if picture is not None:
            show_image(rows[0, column], picture)
    return figure


def masks(images: Sequence[Picture], masks: Sequence[NDArray[np.uint8]]) -> Figure:
    """Draw translucent masks over images.

    Args:
        images: Images, such as frames of a video.
        masks: Mask of each image, uint8 [height, width]: 0 for none, 1, 2, ... for objects.

    Returns:
        A matplotlib figure with a column per image.

    Raises:
        UserError: The numbers or the sizes of images and masks differ.
    """
    if len(images) != len(masks):
        raise UserError(f"masks: {len(masks)} masks for {len(images)} images. Give one mask for each image.")
    figure = new_figure(TILE * len(images), TILE)
    for axes, image, mask in zip(figure.subplots(1, len(images), squeeze=False)[0], images, masks, strict=True):
        pixels = _rgb(image)
        if mask.shape != pixels.shape[:2]:
            raise UserError(f"masks: a mask is {list(mask.shape)}, but its image is {list(pixels.shape[:2])}.")
        show_image(axes, overlay(pixels, mask))
    return figure


def _pictures(features: tuple[ImageFeatures, ImageFeatures], images: tuple[Picture, Picture] | None) -> tuple[RGB, RGB]:
    """Return the images of features. Raises `UserError` if they are not known."""
    if images is not None:
        return _rgb(images[0]), _rgb(images[1])
    first, second = (each.pixels for each in features)
    if first is None or second is None:
        raise UserError("images: features from a store do not hold their image. Pass the two images.")
    return first, second


def _rgb(image: Picture) -> RGB:
    """Return the pixels of an image, uint8 [height, width, 3]."""
    if isinstance(image, (str, Path)):
        return read_rgb(Path(image))
    return to_rgb(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)), "image")
