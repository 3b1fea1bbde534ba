"""Figures for notebooks."""

import io

import numpy as np
import pytest
import skimage.data
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import ditf
from ditf.drawing.features import feature_colours
from ditf.errors import UserError

POINTS = [(40, 30), (80, 50)]


@pytest.fixture(scope="module")
def features() -> ditf.ImageFeatures:
    extractor = ditf.Extractor.from_pretrained("tiny-0", block=2, ensemble_size=1, img_size=96)
    photo = Image.fromarray(skimage.data.cat()).resize((120, 80))
    features: ditf.ImageFeatures = extractor(photo, prompt="a photo of a cat")
    return features


def stored(features: ditf.ImageFeatures) -> ditf.ImageFeatures:
    """Return features as a store gives them, without their image."""
    values = (features.tokens, features.modulation, features.grid, features.size, features.massive)
    return ditf.ImageFeatures(*values)


def rendered(figure: Figure) -> NDArray[np.uint8]:
    """Return the pixels of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def test_matches_of_an_image_with_itself_are_level(features: ditf.ImageFeatures) -> None:
    figure = ditf.show.match(features, features, POINTS)
    left, right = figure.axes
    points, matches = (np.array([line.get_xydata() for line in axes.lines])[:, 0] for axes in (left, right))
    np.testing.assert_array_equal(points, POINTS)
    assert np.abs(points - matches).max() <= 8  # half a token
    assert rendered(figure).std() > 10


def test_a_similarity_map_is_drawn_for_each_point(features: ditf.ImageFeatures) -> None:
    figure = ditf.show.similarity(features, features, POINTS, "adaln")
    maps = [axes.images[1].get_array() for axes in figure.axes if len(axes.images) == 2]
    np.testing.assert_array_equal(maps, ditf.similarity(features, features, POINTS, "adaln"))


def test_images_share_their_principal_components(features: ditf.ImageFeatures) -> None:
    figure = ditf.show.pca([features, features])
    first, second = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[-2:])
    np.testing.assert_array_equal(first, second)
    assert first.shape == (*features.grid, 3)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_first_component_is_larger_in_the_middle(sign: int) -> None:
    rng = np.random.default_rng(0)
    background, object = rng.standard_normal((2, 16))
    maps = np.tile(background, (8, 10, 1))
    maps[2:6, 3:8] = object
    maps = (sign * maps + 0.1 * rng.standard_normal(maps.shape)).astype(np.float32)
    [colours] = feature_colours([maps])
    red = colours[..., 0]
    assert red[2:6, 3:8].min() > 200
    assert np.delete(red.ravel(), np.ravel_multi_index(np.mgrid[2:6, 3:8], red.shape)).max() < 50
    [again] = feature_colours([maps])
    np.testing.assert_array_equal(colours, again)
    edge = np.ones(red.shape, bool)
    edge[1:-1, 1:-1] = False
    assert (colours[edge].mean(0) <= colours.reshape(-1, 3).mean(0)).all()


def test_masks_colour_their_objects() -> None:
    image, mask = np.full((40, 60, 3), 100, np.uint8), np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 1
    [axes] = ditf.show.masks([image], [mask]).axes
    drawn = axes.images[0].get_array()
    assert drawn is not None
    assert (drawn[0, 0] == 100).all()
    assert (drawn[20, 30] != 100).any()


def test_features_from_a_store_need_their_images(features: ditf.ImageFeatures) -> None:
    with pytest.raises(UserError, match="Pass the two images"):
        ditf.show.match(stored(features), stored(features), POINTS)
    assert features.pixels is not None
    images = (features.pixels, Image.fromarray(features.pixels))
    known = ditf.show.match(features, features, POINTS)
    passed = ditf.show.match(stored(features), stored(features), POINTS, images=images)
    np.testing.assert_array_equal(rendered(known), rendered(passed))


def test_wrong_masks_are_reported() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(UserError, match="2 masks for 1 images"):
        ditf.show.masks([image], [np.zeros((4, 6), np.uint8)] * 2)
    with pytest.raises(UserError, match=r"a mask is \[6, 4\], but its image is \[4, 6\]"):
        ditf.show.masks([image], [np.zeros((6, 4), np.uint8)])


def test_a_point_outside_is_reported(features: ditf.ImageFeatures) -> None:
    with pytest.raises(UserError, match="outside the source image"):
        ditf.similarity(features, features, [(500, 1)])
