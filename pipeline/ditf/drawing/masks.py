"""Drawings of masks over images: objects of a video, classes of an image."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import RGB
from ditf.data.masks import PALETTE

VOID = 255
COLOURS = np.array(PALETTE, np.uint8).reshape(256, 3)
OUTLINE = (255, 255, 255)  # colour of the true outline


def overlay(image: RGB, mask: NDArray[np.uint8], truth: NDArray[np.uint8] | None = None, strength: float = 0.4) -> RGB:
    """Return an image with translucent objects, a contour around each, and the true outlines in white.

    Args:
        image: Pixels, uint8 [height, width, 3].
        mask: Object of each pixel, uint8 [height, width]; 0 for none.
        truth: The true mask, or None if it is not known.
        strength: Opacity of the objects.
    """
    shown, inside = image.copy(), mask > 0
    shown[inside] = ((1 - strength) * image[inside] + strength * COLOURS[mask[inside]]).round()
    width = max(1, round(max(mask.shape) / 240))
    for number in np.unique(mask[inside]):
        _outline(shown, mask == number, COLOURS[number].tolist(), 2 * width)
    if truth is not None:
        for number in np.unique(truth[(truth > 0) & (truth != VOID)]):
            _outline(shown, truth == number, OUTLINE, width)
    return shown


def colour_of(number: int) -> str:
    """Return the colour of an object or a class, such as "#800000"."""
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[number])


def object_legend(objects: int, with_truth: bool) -> list[tuple[str, str]]:
    """Return the colours of objects 1..n and their names, for the legend of a contact sheet."""
    legend = [(colour_of(number), f"object {number}") for number in range(1, objects + 1)]
    return legend + ([("white", "true outline")] if with_truth else [])


def animation(path: Path, images: Sequence[RGB], seconds: float = 0.1) -> None:
    """Write images of one size as an endless GIF.

    Args:
        path: GIF file to write.
        images: Frames, uint8 [height, width, 3].
        seconds: Time that each frame is shown.
    """
    first, *others = (Image.fromarray(image).quantize(method=Image.Quantize.FASTOCTREE) for image in images)
    first.save(path, save_all=True, append_images=others, duration=round(1000 * seconds), loop=0)


def _outline(image: RGB, inside: NDArray[np.bool_], colour: Sequence[int], width: int) -> None:
    """Draw the outline of a region into an image."""
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, width)
