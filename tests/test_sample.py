"""The hard part of the sample: rendered objects with exact keypoints and masks; what makes pairs and videos hard."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditf.data.masks import read_index_mask
from ditf.datasets.spair import SPair
from ditf.sample.davis import FRAMES, build_davis
from ditf.sample.objects import KINDS
from ditf.sample.photographs import PHOTOS
from ditf.sample.render import Camera, box, ellipsoid, join, render
from ditf.sample.scenes import AZIMUTHS, moved, object_views, radius_of, surface, surroundings, visible_keypoints
from ditf.sample.spair import build_spair

GREY = np.full((20, 20, 3), 128, np.uint8)
UP = np.array([0.0, 0.0, 1.0])
MARK = (1.0, 0.0, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_the_same_for_a_seed_and_differ_for_another(kind: str) -> None:
    first, again, other = (object_views(kind, seed) for seed in (0, 0, 1))
    for view, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(view.pixels, same.pixels)
        assert (view.keypoints, view.azimuth) == (same.keypoints, same.azimuth)
        assert view.keypoints != different.keypoints


@pytest.mark.parametrize("kind", KINDS)
def test_keypoints_lie_on_their_object(kind: str) -> None:
    views = object_views(kind, 0)
    assert len(views) == len(AZIMUTHS)
    for view in views:
        assert len(view.keypoints) >= 4
        assert all(view.covered[y, x] for x, y in view.keypoints.values())
        x1, y1, x2, y2 = view.box
        height, width = view.covered.shape
        assert x1 > 0 and x2 < width and y1 > 0 and y2 < height  # the whole object is in the image


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(list(KINDS)), st.integers(0, 5), st.floats(-180, 180), st.floats(0.1, 0.6))
def test_a_mark_at_a_keypoint_is_seen_there(kind: str, number: int, azimuth: float, elevation: float) -> None:
    """Marks at all keypoints are rendered with the object: each visible keypoint shows a mark, each hidden one none."""
    item = KINDS[kind](np.random.default_rng(number), number)
    radius = radius_of(item)
    middle = (item.mesh.points.min(0) + item.mesh.points.max(0)) / 2
    camera = Camera(middle, np.deg2rad(azimuth), elevation, 4 * radius, 400.0, (320, 240))
    view = (UP, GREY, GREY, 1.0)
    plain = render(item.mesh, camera, *view)
    shown = visible_keypoints(item, camera, plain)
    assert shown
    marks = [ellipsoid(place, np.full(3, 0.075 * radius), MARK) for place in item.keypoints.values()]
    marked = render(join([item.mesh, *marks]), camera, *view).pixels.astype(int)
    magenta = np.minimum(marked[..., 0], marked[..., 2]) - marked[..., 1] > 60
    assert all(magenta[y, x] for x, y in shown.values())
    # A mark has a radius of 7.5 pixels. Twice this distance from every keypoint, there is none.
    places = camera.project(np.array(list(item.keypoints.values())))[:, :2]
    rows, columns = np.nonzero(magenta)
    distance = np.hypot(columns[:, None] - places[:, 0], rows[:, None] - places[:, 1]).min(1)
    assert distance.max() < 15


@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-180, 180))
def test_moving_object_and_camera_together_changes_nothing(x: float, y: float, azimuth: float) -> None:
    item = KINDS["chair"](np.random.default_rng(0), 1)
    camera = Camera(np.array([0.0, 0.0, 0.5]), np.deg2rad(azimuth), 0.3, 3.0, 400.0, (160, 120))
    there = replace(camera, target=camera.target + np.array([x, y, 0.0]))
    one = camera.project(np.array(list(item.keypoints.values())))
    other = there.project(np.array(list(moved(item, x, y).keypoints.values())))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_point_behind_an_object_is_hidden() -> None:
    camera = Camera(np.array([0.0, 0.0, 0.5]), 0.0, 0.0001, 5.0, 300.0, (160, 120))
    rendering = render(box((0, 0, 0.5), (0.5, 1, 1), (1, 0, 0)), camera, UP, GREY, GREY, 1.0)
    front, behind, beside = (0.25, 0.2, 0.4), (-0.25, 0.2, 0.4), (0.25, 0.9, 0.4)
    places = camera.project(np.array([front, behind, beside]))
    assert rendering.shows(places, 0.01).tolist() == [True, False, False]
    nearer = camera.project(np.array([(2.0, 0.2, 0.4)]))  # a point in front of the object hides nothing
    assert rendering.shows(nearer, 0.01).tolist() == [True]


def test_a_sphere_covers_a_disc_of_the_right_size() -> None:
    camera = Camera(np.array([0.0, 0.0, 1.0]), 0.7, 0.2, 50.0, 2000.0, (200, 160))
    rendering = render(ellipsoid((0, 0, 1), (1, 1, 1), (1, 0, 0)), camera, UP, GREY, GREY, 1.0)
    rows, columns = np.nonzero(rendering.covered)
    assert rendering.covered.sum() == pytest.approx(np.pi * 40**2, rel=0.08)  # the mesh lies inside the sphere
    assert (columns.mean(), rows.mean()) == pytest.approx((99.5, 79.5), abs=0.5)


def test_a_surface_has_no_seams() -> None:
    texture = surface("wood").astype(int)
    inner = np.abs(np.diff(texture[:, 20:100], axis=1)).mean()
    assert np.abs(texture[:, 0] - texture[:, -1]).mean() <= inner
    assert np.abs(texture[0] - texture[-1]).mean() <= inner


def test_the_viewpoint_separates_the_easy_part_from_the_hard_one(tmp_path: Path) -> None:
    build_spair(tmp_path, 0)
    pairs = SPair(type="spair", root=str(tmp_path)).read().rows["pairs"]
    grades = {
        part: {pair["viewpoint_variation"] for pair in pairs if pair["category"] in part}
        for part in (tuple(PHOTOS), tuple(KINDS))
    }
    assert grades == {tuple(PHOTOS): {0}, tuple(KINDS): {1, 2}}
    assert {pair["mirror"] for pair in pairs if pair["category"] in KINDS} == {0, 1}
    hard = sum(pair["category"] in KINDS for pair in pairs)
    assert 0.4 < hard / len(pairs) < 0.6


def test_the_videos_have_an_occluded_and_a_fast_object(tmp_path: Path) -> None:
    build_davis(tmp_path, 0)

    def masks(sequence: str) -> list[np.ndarray]:
        folder = tmp_path / "Annotations/480p" / sequence
        return [read_index_mask(folder / f"{frame:05d}.png") for frame in range(FRAMES)]

    areas = [int((mask > 0).sum()) for mask in masks("car-behind-pillar")]
    assert 0.2 * areas[0] < min(areas) < 0.7 * areas[0]
    assert areas[-1] > 0.85 * areas[0]  # it comes out again
    split = [cv2.connectedComponents((mask > 0).astype(np.uint8))[0] - 1 for mask in masks("car-behind-pillar")]
    assert max(split) >= 2  # the pillar hides its middle
    columns = [np.nonzero(mask)[1].mean() for mask in masks("dog-runs")]
    assert min(np.diff(columns)) > 30  # pixels per frame


def test_surroundings_light_the_object_from_above() -> None:
    light, backdrop, ground, _ = surroundings(np.random.default_rng(0), 0, 1.0)
    assert np.linalg.norm(light) == pytest.approx(1) and light[2] > 0.5
    assert backdrop.dtype == ground.dtype == np.uint8
