"""`Extractor` in Python: it checks its arguments and decodes images as the pipeline does."""

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ditf
from ditf.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def extractor() -> ditf.Extractor:
    return load()


def load(**arguments: Any) -> ditf.Extractor:
    return ditf.Extractor.from_pretrained("tiny-0", **{"block": 2, "img_size": 64, "ensemble_size": 1, **arguments})


def test_a_photograph_gives_the_same_features_in_every_form(extractor: ditf.Extractor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was held on its side
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    upright = np.rot90(PIXELS, -1)
    expected = extractor(tmp_path / "turned.png")
    assert expected.size == (64, 96)
    for image in (str(tmp_path / "turned.png"), turned, upright, Image.fromarray(upright).convert("RGBA")):
        features = extractor(image)
        assert features.size == expected.size
        np.testing.assert_array_equal(features.tokens, expected.tokens)


def test_grey_images_are_read_as_grey(extractor: ditf.Extractor, tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = extractor(tmp_path / "grey.png").tokens
    np.testing.assert_array_equal(extractor(grey).tokens, expected)
    np.testing.assert_array_equal(extractor(np.repeat(grey[..., None], 3, 2)).tokens, expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PIXELS / 255, "an array of float64 .* is not supported. Give uint8 values 0 to 255"),
        (PIXELS.astype(np.float32), "an array of float32"),
        (PIXELS.astype(np.int64), "an array of int64"),
        (PIXELS.transpose(2, 0, 1), r"uint8 \[3, 64, 96\] is not supported. Give .* \[height, width, 3\]"),
        (PIXELS[None], r"\[1, 64, 96, 3\]"),
        (PIXELS[..., :2], r"\[64, 96, 2\]"),
        (PIXELS[:0], r"\[0, 96, 3\]"),
        (PIXELS.tolist(), "list is not supported. Give a path, a PIL image or a uint8 array"),
        (None, "NoneType is not supported"),
        (Image.new("F", (8, 8)), "mode F, whose range is unknown"),
        (Image.new("L", (20000, 1)), "20000x1 pixels; at most"),
        ("nope.jpg", "nope.jpg: not found"),
        (Path("/"), "/: cannot be read"),
        (__file__, "test_extractor.py: not"),
    ],
)
def test_what_is_no_image_is_one_line(extractor: ditf.Extractor, image: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        extractor(image)
    assert "\n" not in str(caught.value)


def test_a_cut_file_opened_by_pil_is_one_line(extractor: ditf.Extractor, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(UserError, match="image: cannot be read"):
        extractor(Image.open(tmp_path / "cut.png"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"rule": "max"}, "rule: .*'longer', 'shorter' or 'square'"),
        ({"img_size": 0}, "img_size: .*greater than or equal to 32"),
        ({"img_size": 64.5}, "img_size: "),
        ({"seed": -1}, "seed: "),
        ({"noise": "none"}, "noise: "),
        ({"dtype": "float16"}, "dtype: .*'auto', 'float32' or 'bfloat16'"),
        ({"device": "tpu"}, "device: "),
        ({"batch_size": 0}, "batch_size: "),
        ({"revision": ""}, "revision: "),
        ({"type": "fluxx"}, "type: 'fluxx' is not known"),
        ({"timestep": 2000}, "timestep: .*less than or equal to 1000"),
        ({"timestepp": 3}, "timestepp: unknown parameter"),
        ({"quantize": "int3"}, "quantize: "),
        ({"type": "vit", "offload": "blocks", "block": None}, "offload: models of type vit do not support this option"),
        ({"blocks": [1, 2]}, "block, blocks: give one of them"),
        ({"block": None, "blocks": []}, "blocks: "),
        ({"block": 99}, "blocks: 99 is not a block"),
    ],
)
def test_wrong_arguments_are_refused_as_in_params_yaml(arguments: dict[str, Any], expected: str) -> None:
    if arguments.get("type") == "vit":
        arguments = {**arguments, "ensemble_size": 1}
    with pytest.raises(UserError, match=expected):
        load(**arguments)


def test_several_blocks_give_a_dictionary(extractor: ditf.Extractor) -> None:
    several = load(block=None, blocks=[2, 5])
    features = several(PIXELS)
    assert list(features) == [2, 5]
    np.testing.assert_array_equal(features[2].tokens, extractor(PIXELS).tokens)
    np.testing.assert_array_equal(extractor.extract(PIXELS)[2].tokens, extractor(PIXELS).tokens)
    assert not np.array_equal(features[5].tokens, features[2].tokens)


def test_public_objects_print_in_two_lines(extractor: ditf.Extractor) -> None:
    features = extractor(PIXELS)
    assert repr(extractor).startswith("Extractor(flux 'tiny-0', blocks=[2], ensemble_size=1, timestep=260")
    assert repr(features).startswith("ImageFeatures(3x4 tokens of 64 channels")
    for value in (extractor, features):
        assert repr(value).count("\n") <= 1
        assert len(repr(value)) < 240


def test_the_package_lists_its_names() -> None:
    names = {"Extractor", "FeatureStore", "ImageFeatures", "load_results", "match", "open_store", "__version__"}
    assert names <= set(dir(ditf))
    assert all(getattr(ditf, name) for name in names)
    assert ditf.__version__ == importlib.metadata.version("ditf")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ditf.nothing
