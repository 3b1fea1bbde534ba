"""The rules by which images are resized, and reading."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import Rule, for_model, model_size, read_rgb, shrink


@pytest.mark.parametrize(
    ("rule", "img_size", "size", "expected"),
    [
        ("longer", 640, (500, 375), (640, 480)),
        ("longer", 640, (375, 500), (480, 640)),
        ("longer", 640, (500, 333), (640, 432)),
        ("longer", 640, (500, 10), (640, 16)),
        ("shorter", 960, (854, 480), (1696, 960)),
        ("shorter", 480, (854, 480), (832, 480)),
        ("shorter", 480, (480, 854), (480, 832)),
        ("shorter", 192, (320, 192), (320, 192)),
        ("shorter", 208, (100, 100), (208, 208)),
    ],
)
def test_sizes(rule: Rule, img_size: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert model_size(rule, img_size, *size) == expected


@given(st.sampled_from(["longer", "shorter"]), st.integers(2, 30), st.integers(1, 400), st.integers(1, 400))
def test_sides_are_whole_tokens(rule: Rule, tokens: int, width: int, height: int) -> None:
    found = model_size(rule, 16 * tokens, width, height)
    assert all(side % 16 == 0 and side >= 16 for side in found)
    assert 16 * tokens in found


def test_resized_images_have_the_models_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (37, 61, 3), np.uint8)
    for rule in ("longer", "shorter"):
        width, height = model_size(rule, 64, 61, 37)
        assert for_model(image, rule, 64).shape == (height, width, 3)


def test_turned_photographs_are_read_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (40, 20, 3)


def test_shrink_never_enlarges() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    assert shrink(image, 100).shape == (20, 40, 3)
    assert shrink(image, 20).shape == (10, 20, 3)
