"""The photographs that the samples are made of. They are part of scikit-image."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import skimage.data

from ditf.data.images import RGB, shrink

PHOTO_SIDE = 320  # longer side of a photograph, in pixels
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Photo:
    """A photograph.

    Attributes:
        read: Function that reads the pixels at full size.
        caption: Description of the photograph.
        box: Box of its main object, (x1, y1, x2, y2) as fractions of width and height.
    """

    read: Callable[[], RGB]
    caption: str
    box: tuple[float, float, float, float]

    def load(self) -> RGB:
        """Return the pixels at full size, which cannot be changed. The file is read once."""
        return _read_once(self.read)

    def pixels(self) -> RGB:
        """Return the pixels, scaled down so that the longer side is `PHOTO_SIDE`."""
        return shrink(self.load(), PHOTO_SIDE)


@functools.cache
def _read_once(read: Callable[[], RGB]) -> RGB:
    pixels = read()
    pixels.flags.writeable = False
    return pixels


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
