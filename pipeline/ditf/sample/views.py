"""Turned and scaled views of the photographs.

All views of a photograph show the same points, so any two of them are a pair with exact keypoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ditf.data.images import RGB
from ditf.sample.photographs import PHOTO_FOLDERS, PHOTOS

POINTS = 17  # points of a photograph; AP-10K has as many joints
VIEWS = 4  # views of each photograph, the unchanged one included
TURN = 15.0  # largest rotation either way, in degrees
SCALE = (0.8, 1.1)


@dataclass(frozen=True)
class View:
    """A view of a photograph.

    Attributes:
        name: A number of 12 digits.
        category: Name of the photograph.
        family: Folder of the photograph in `PHOTO_FOLDERS`.
        pixels: The image.
        points: Positions (x, y) in pixels, [17, 2]. Points outside the image are not visible.
    """

    name: str
    category: str
    family: str
    pixels: RGB
    points: NDArray[np.float64]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Return which points lie inside the view, [17]."""
        height, width = self.pixels.shape[:2]
        return np.logical_and.reduce((self.points >= 0) & (self.points < (width, height)), axis=1)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return the box around the visible points, (x1, y1, x2, y2)."""
        low, high = self.points[self.visible].min(0), self.points[self.visible].max(0)
        return int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1


def views(seed: int) -> Iterator[View]:
    """Yield the views of all photographs."""
    number = 0
    for family, categories in PHOTO_FOLDERS.items():
        for category in categories:
            rng = np.random.default_rng([seed, number])
            image = PHOTOS[category].pixels()
            height, width = image.shape[:2]
            x1, y1, x2, y2 = PHOTOS[category].box
            spread = rng.uniform((0.15, 0.15), (0.85, 0.85), (POINTS, 2))
            points = (np.array((x1, y1)) + spread * (x2 - x1, y2 - y1)) * (width, height)
            for view in range(VIEWS):
                number += 1
                turn, scale = (0.0, 1.0) if view == 0 else (rng.uniform(-TURN, TURN), rng.uniform(*SCALE))
                matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
                warped = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
                moved = points @ matrix[:, :2].T + matrix[:, 2]
                yield View(f"{number:012d}", category, family, np.asarray(warped, np.uint8), moved)


def views_by_category(seed: int) -> dict[str, list[View]]:
    """Return the views of each photograph."""
    by_category: dict[str, list[View]] = {}
    for view in views(seed):
        by_category.setdefault(view.category, []).append(view)
    return by_category
