"""HPatches: the published answers, sequences that the tests make, and what is wrong with them."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image
from safetensors.torch import load_file

from ditf.data.catalog import Catalog, write_catalog
from ditf.datasets.hpatches import HPatches
from ditf.errors import UserError
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.metrics.homography import corner_error, estimate, project
from ditf.tasks.homography import Homography, points_of, sample

PREDICT = {"block": 2, "descriptors": ["original"], "sampling": "published"}


@pytest.fixture(scope="module")
def answers(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], FeatureStore, Catalog]:
    """What was published, and the golden features and images in a store and a catalog."""
    root, folder = golden / "sets/hpatches", tmp_path_factory.mktemp("hpatches")
    write_catalog(folder / "catalog", HPatches(type="hpatches", root=str(root)).read())
    catalog = Catalog(folder / "catalog")
    maps = load_file(root / "features.safetensors")
    items, features = [], []
    for item, row in catalog.images().items():
        x = maps[item]
        items.append(StoreItem(item, item, (x.shape[1], x.shape[2]), (row["width"], row["height"]), ""))
        features.append({2: (x.flatten(1).T.numpy(), None)})
    store = write_store(folder / "store", items, features, "float32", stride=8)
    return json.loads((root / "expected.json").read_text()), store, catalog


def test_sequences_are_those_that_count(answers: tuple[dict[str, Any], FeatureStore, Catalog]) -> None:
    expected, _, catalog = answers
    assert sorted({row["id"].split("/")[0] for row in catalog.rows("images")}) == sorted(expected["sequences"])
    for item, points in points_of(catalog).items():
        assert len(points) == expected["images"][item]["n_keypoints"]


def test_descriptors_at_keypoints(golden: Path, answers: tuple[dict[str, Any], FeatureStore, Catalog]) -> None:
    _, store, catalog = answers
    published = load_file(golden / "sets/hpatches/descriptors.safetensors")
    for item, points in points_of(catalog).items():
        np.testing.assert_array_equal(points, published[f"{item}/keypoints"].numpy())
        found = sample(store.features(2, item), points, "original", (), "published")
        np.testing.assert_allclose(found, published[f"{item}/descriptors"].numpy(), atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_matches_homographies_and_accuracy(
    golden: Path, answers: tuple[dict[str, Any], FeatureStore, Catalog], metric: str, tmp_path: Path
) -> None:
    expected, store, catalog = answers
    published = load_file(golden / "sets/hpatches/matches.safetensors")
    task = Homography.model_validate(
        {"type": "homography", "dataset": "x", "features": "x", "predict": PREDICT | {"metric": metric}}
    )
    task.make_predictions(store, catalog, tmp_path, None)
    rows = pq.read_table(tmp_path / "matches.parquet").to_pylist()
    sizes = {item: (row["width"], row["height"]) for item, row in catalog.images().items()}
    pairs = {pair["pair"]: pair for pair in catalog.rows("homographies")}
    assert len(pairs) == len(expected["pairs"])
    for answer in expected["pairs"]:
        name = f"{answer['sequence']}/1-{answer['image']}"
        own = [row for row in rows if row["pair"] == name]
        found = {side: np.array([[row[f"{side}_x"], row[f"{side}_y"]] for row in own]) for side in ("source", "target")}
        for side in ("source", "target"):
            np.testing.assert_array_equal(found[side], published[f"{metric}/{name}/{side}"].numpy())
        truth = np.array(pairs[name]["matrix"]).reshape(3, 3)
        for method in ("lmeds", "ransac"):
            wanted = answer["estimates"][f"{metric}-{method}"]
            error = corner_error(
                estimate(found["source"], found["target"], method), truth, sizes[pairs[name]["source"]]
            )
            assert [error <= pixels for pixels in (1, 3, 5)] == wanted["correct"]
            assert error == pytest.approx(wanted["corner_error"], abs=2e-4)
    scores = task.compute_metrics(catalog, tmp_path, tmp_path)
    for method in ("lmeds", "ransac"):
        for pixels, value in expected["metrics"][f"{metric}-{method}"]["overall"].items():
            assert scores.metrics["original"][f"{method}@{pixels}"] / 100 == pytest.approx(value, abs=2e-6)
    if metric == "cosine":
        with (tmp_path / "matching_accuracy.csv").open() as file:
            table = list(csv.DictReader(file))
        for kind in ("overall", "illumination", "viewpoint"):
            found_rows = [float(row["accuracy"]) / 100 for row in table if row["kind"] == kind]
            np.testing.assert_allclose(found_rows, expected["metrics"]["mma"][kind], atol=2e-6)


def make(root: Path) -> Path:
    """Two sequences of a photograph, one changed in brightness and one turned."""
    image = skimage.data.astronaut()[:240, :320]
    for name in ("i_light", "v_turn"):
        folder = root / name
        folder.mkdir(parents=True)
        for k in range(1, 7):
            turn = cv2.getRotationMatrix2D((160, 120), 4.0 * (k - 1) * (name == "v_turn"), 1.0)
            matrix = np.vstack([turn, [0, 0, 1]])
            shown = cv2.warpAffine(image, turn, (320, 240))
            if name == "i_light":
                shown = (shown * (1 - 0.1 * (k - 1))).astype(np.uint8)
            Image.fromarray(np.asarray(shown, np.uint8)).save(folder / f"{k}.ppm")
            if k > 1:
                np.savetxt(folder / f"H_1_{k}", matrix)
    return root


def test_sift_finds_keypoints_where_there_are_none(tmp_path: Path) -> None:
    tables = HPatches(type="hpatches", root=str(make(tmp_path)), keypoints=None, most=80).read().rows
    counts = {row["id"]: 0 for row in tables["images"]}
    for row in tables["points"]:
        counts[row["id"]] += 1
    assert len(counts) == 12
    assert all(20 < count <= 90 for count in counts.values())
    assert len(tables["homographies"]) == 10


def emptied(root: Path) -> None:
    for name in ("i_light", "v_turn"):
        shutil.rmtree(root / name)


Break = Callable[[Path], Any]
BROKEN: list[tuple[Break, str]] = [
    (lambda r: emptied(r), "no sequences i_"),
    (lambda r: (r / "i_light/3.ppm").unlink(), "not found"),
    (lambda r: (r / "i_light/3.ppm").write_bytes(b"P6"), "not a readable image"),
    (lambda r: (r / "v_turn/H_1_2").unlink(), "H_1_2: not found"),
    (lambda r: (r / "v_turn/H_1_2").write_text("1 0 0\n0 1 0\n"), "not an invertible 3x3 homography"),
    (lambda r: (r / "v_turn/H_1_2").write_text("1 0 0\n0 1 0\n0 0 0\n"), "not an invertible 3x3 homography"),
    (lambda r: (r / "v_turn/H_1_2").write_text("1 0 0\n0 nan 0\n0 0 1\n"), "line 2"),
    (lambda r: (r / "v_turn/H_1_2").write_text("1 0 0\n0 x 0\n0 0 1\n"), "line 2"),
    (lambda r: (r / "v_turn/H_1_2").write_text("1 0 0\n0 1\n0 0 1\n"), "line 2"),
    (lambda r: (r / "v_turn/H_1_2").write_bytes(b"1 2 \xff\xfe"), "line 1: not UTF-8 text"),
    (lambda r: (r / "superpoint-1k/i_light-2.kp").unlink(), "Set `keypoints` to the folder"),
    (lambda r: (r / "superpoint-1k/i_light-2.kp").write_text("1 2 3\n"), "not lines of x and y"),
    (lambda r: (r / "superpoint-1k/i_light-2.kp").write_text(""), "not lines of x and y"),
    (lambda r: (r / "superpoint-1k/i_light-2.kp").write_text("1 inf\n"), "line 1"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_what_is_wrong_is_named(number: int, tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    (root / "superpoint-1k").mkdir()
    for name in ("i_light", "v_turn"):
        for k in range(1, 7):
            (root / f"superpoint-1k/{name}-{k}.kp").write_text("10 20\n30 40.5\n")
    HPatches(type="hpatches", root=str(root)).read()
    damage, expected = BROKEN[number]
    damage(root)
    with pytest.raises(UserError) as caught:
        HPatches(type="hpatches", root=str(root)).read()
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value).split("\n")[0]


def test_too_few_matches_give_no_homography() -> None:
    points = np.array([[0.0, 0], [1, 0], [0, 1]])
    assert estimate(points, points, "lmeds") is None
    assert corner_error(None, np.eye(3), (10, 10)) == float("inf")
    np.testing.assert_allclose(project(np.diag([2.0, 2, 1]), points), 2 * points)
