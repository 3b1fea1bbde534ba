"""Visualizations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditf.data.masks import PALETTE
from ditf.drawing.pictures import draw_matches, draw_places, overlay


@pytest.mark.parametrize("name", ["cat/$1", r"cat/$\no$ formula"])
def test_names_are_text_and_no_formulas(name: str, tmp_path: Path) -> None:
    image = np.zeros((8, 12, 3), np.uint8)
    place = {"rank": 1, "image": name, "similarity": 0.5, "box": (1, 1, 4, 4)}
    draw_places(tmp_path / "places.png", image, (2, 2), [place], lambda _: image)
    draw_matches(tmp_path / "matches.png", name, image, image, [], 0.1)
    for drawn in ("places", "matches"):
        assert Image.open(tmp_path / f"{drawn}.png").size[0] > 500


def test_objects_are_coloured_and_the_rest_is_left() -> None:
    image, mask = np.full((2, 2, 3), 100, np.uint8), np.array([[0, 1], [2, 0]], np.uint8)
    shown = overlay(image, mask, 0.5)
    np.testing.assert_array_equal(shown[mask == 0], image[mask == 0])
    for label in (1, 2):
        expected = 50 + np.array(PALETTE[3 * label : 3 * label + 3]) / 2
        assert np.abs(shown[mask == label][0] - expected).max() <= 0.5
