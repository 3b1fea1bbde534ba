"""Copies of SPair-71k on square canvases."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ditf.cli.app import app
from ditf.data.images import read_rgb
from ditf.data.prepare_canvas import place_on_canvas, point_on_canvas
from ditf.datasets.spair import SPair
from ditf.files import exclusive
from ditf.sample.spair import build_spair

SIDE = 128


@pytest.mark.parametrize("name", ["landscape", "portrait"])
def test_a_canvas_is_the_published_one(golden: Path, name: str) -> None:
    folder = golden / "fusion/dino"
    expected = read_rgb(folder / f"{name}.canvas.png")
    np.testing.assert_array_equal(place_on_canvas(read_rgb(folder / f"{name}.png"), len(expected)), expected)


def test_points_are_the_published_ones(golden: Path) -> None:
    for case in json.loads((golden / "fusion/keypoints.json").read_text()):
        moved = [point_on_canvas(tuple(point), tuple(case["size_wh"]), 840) for point in case["keypoints"]]
        np.testing.assert_allclose(moved, case["padded"], atol=1e-3)


@pytest.fixture(scope="module")
def spair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("canvas") / "SPair-71k"
    build_spair(root, 0)
    for path in (root / "PairAnnotation/test").glob("*.json"):
        pair = json.loads(path.read_text())
        for side in ("src", "trg"):
            width, height, _ = pair[f"{side}_imsize"]
            points = dict(zip(map(str, pair["kps_ids"]), pair[f"{side}_kps"], strict=True))
            image = {"filename": pair[f"{side}_imname"], "image_width": width, "image_height": height}
            image |= {"bndbox": pair[f"{side}_bndbox"], "kps": points | {"29": None}}
            file = root / "ImageAnnotation" / pair["category"] / Path(pair[f"{side}_imname"]).with_suffix(".json")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(image))
    (root / "captions.json").write_text(json.dumps({"catcat_00.jpg": "a cat"}))
    return root


def prepare(root: Path, target: Path) -> Result:
    return CliRunner().invoke(app, ["prepare", "canvas", str(root), str(target), "--side", str(SIDE)])


def test_a_copy_has_the_same_pairs_on_squares(spair: Path, tmp_path: Path) -> None:
    done = prepare(spair, tmp_path / "copy")
    assert done.exit_code == 0, done.output
    before, after = (SPair(type="spair", root=str(root)).read().rows for root in (spair, tmp_path / "copy"))
    assert done.stdout == f"{tmp_path / 'copy'}: {len(before['images'])} images\n"
    assert [row["id"] for row in after["images"]] == [row["id"] for row in before["images"]]
    assert {(row["width"], row["height"]) for row in after["images"]} == {(SIDE, SIDE)}
    assert [row for row in after["images"] if row["prompt"] == "a cat"]
    scales = {row["id"]: SIDE / max(row["width"], row["height"]) for row in before["images"]}
    for old, new in zip(before["pairs"], after["pairs"], strict=True):
        assert new["pair"] == old["pair"] and new["viewpoint_variation"] == old["viewpoint_variation"]
        assert new["threshold"] == pytest.approx(old["threshold"] * scales[old["target"]])
    points = [(row["pair"], row["target_x"], row["target_y"]) for row in before["keypoints"]]
    moved = [(row["target_x"], row["target_y"]) for row in after["keypoints"]]
    images = {row["id"]: row for row in before["images"]}
    targets = {row["pair"]: images[row["target"]] for row in before["pairs"]}
    for (pair, x, y), found in zip(points, moved, strict=True):
        size = targets[pair]["width"], targets[pair]["height"]
        assert found == pytest.approx(point_on_canvas((x, y), size, SIDE))
    image = json.loads((tmp_path / "copy/ImageAnnotation/cat/cat_00.json").read_text())
    assert image["filename"] == "cat_00.png" and image["kps"]["29"] is None
    assert (image["image_width"], image["image_height"]) == (SIDE, SIDE)


def test_a_point_shows_the_same_on_the_canvas(spair: Path) -> None:
    pixels = read_rgb(next((spair / "JPEGImages").glob("*/*.jpg")))
    height, width = pixels.shape[:2]
    pixels = pixels.copy()
    pixels[height // 4 : height // 4 + 3, width // 3 : width // 3 + 3] = (255, 0, 255)
    canvas = place_on_canvas(pixels, 2 * max(width, height)).astype(int)
    distance = np.abs(canvas - (255, 0, 255)).sum(2)
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    x, y = point_on_canvas((width // 3 + 1, height // 4 + 1), (width, height), 2 * max(width, height))
    assert abs(column - x) <= 3 and abs(row - y) <= 3


def test_a_second_run_waits_for_nobody_and_a_killed_one_leaves_no_trace(spair: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "copy"):
        done = prepare(spair, tmp_path / "copy")
    assert done.exit_code == 2 and "another process is computing this" in done.stderr
    left = tmp_path / ".copy.partial/JPEGImages/cat/cat_00.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert prepare(spair, tmp_path / "copy").exit_code == 0
    assert not left.exists() and not (tmp_path / ".copy.partial").exists()
    assert read_rgb(tmp_path / "copy/JPEGImages/cat/cat_00.png").shape == (SIDE, SIDE, 3)


def test_what_is_wrong_is_named_and_nothing_is_left(spair: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for root, target, message in (
        (spair, tmp_path / "there", "exists already"),
        (tmp_path, tmp_path / "copy", "has no images"),
    ):
        done = prepare(root, target)
        assert done.exit_code == 2 and message in done.stderr
    broken = tmp_path / "broken"
    build_spair(broken, 0)
    path = next((broken / "PairAnnotation/test").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trg_kps": 7}))
    done = prepare(broken, tmp_path / "copy")
    assert done.exit_code == 2 and f"{path}: not an annotation of SPair-71k" in done.stderr
    left = {each.name for each in tmp_path.iterdir() if each.suffix != ".lock"}
    assert left == {"there", "broken"}
