"""The rules by which images are resized, and reading."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ditf.data.images import hash_pixels, inspect, model_size, read_rgb, resize_for_model, shrink
from ditf.errors import UserError
from ditf.types import Rule


@pytest.mark.parametrize(
    ("rule", "img_size", "size", "stride", "expected"),
    [
        ("longer", 640, (500, 375), 16, (640, 480)),
        ("longer", 640, (375, 500), 16, (480, 640)),
        ("longer", 640, (500, 333), 16, (640, 432)),
        ("longer", 640, (500, 10), 16, (640, 16)),
        ("shorter", 960, (854, 480), 16, (1696, 960)),
        ("shorter", 480, (854, 480), 16, (832, 480)),
        ("shorter", 480, (480, 854), 16, (480, 832)),
        ("shorter", 192, (320, 192), 16, (320, 192)),
        ("shorter", 208, (100, 100), 16, (208, 208)),
        ("longer", 518, (500, 375), 14, (518, 392)),
        ("square", 768, (500, 375), 16, (768, 768)),
    ],
)
def test_sizes(rule: Rule, img_size: int, size: tuple[int, int], stride: int, expected: tuple[int, int]) -> None:
    assert model_size(rule, img_size, *size, stride) == expected


@given(st.sampled_from(["longer", "shorter", "square"]), st.integers(2, 30), st.integers(1, 400), st.integers(1, 400))
def test_sides_are_whole_tokens(rule: Rule, tokens: int, width: int, height: int) -> None:
    sides = model_size(rule, 16 * tokens, width, height, 16)
    assert all(side % 16 == 0 and side >= 16 for side in sides)
    assert 16 * tokens in sides


def test_resized_images_have_the_models_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (37, 61, 3), np.uint8)
    for rule in ("longer", "shorter"):
        width, height = model_size(rule, 64, 61, 37, 16)
        assert resize_for_model(image, rule, 64, 16).shape == (height, width, 3)


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


def test_a_size_that_is_not_whole_tokens_is_an_error() -> None:
    with pytest.raises(UserError, match="img_size: 479 is not a multiple of 16"):
        model_size("shorter", 479, 100, 100, 16)


def test_grey_of_16_bits_is_scaled_to_its_full_range(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png"), np.repeat([[[0], [1], [128], [255]]], 3, 2))


def test_an_image_that_changed_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="changed since the catalog was made"):
        read_rgb(tmp_path / "a.png", sha256="0" * 64)


def test_pixels_not_files_identify_an_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.bmp")
    png, bmp = inspect(tmp_path / "a.png"), inspect(tmp_path / "b.bmp")
    assert png.sha256 != bmp.sha256
    assert png.pixels_sha256 == bmp.pixels_sha256 == hash_pixels(pixels)
    assert hash_pixels(pixels) != hash_pixels(pixels.reshape(30, 20, 3))  # the size counts, too
    assert hash_pixels(pixels[:, ::-1]) == hash_pixels(pixels[:, ::-1].copy())
