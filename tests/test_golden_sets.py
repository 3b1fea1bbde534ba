"""Keypoint benchmarks equal the published programs: which pairs there are, and PCK of given predictions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ditf.data.catalog import Catalog, write_catalog
from ditf.datasets.ap10k import AP10K
from ditf.datasets.base import Dataset
from ditf.datasets.pf_pascal import PFPascal
from ditf.datasets.pf_willow import PFWillow
from ditf.datasets.spair import SPair
from ditf.metrics.pck import PREDICTIONS
from ditf.tasks.correspondence import evaluate, rescored

KINDS = {"intra-species": "test", "cross-species": "test_cross_species", "cross-family": "test_cross_family"}
Row = dict[str, Any]


def answers(golden: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = golden / "sets" / name
    return json.loads((folder / "expected.json").read_text()), json.loads((folder / "predictions.json").read_text())


def catalog_of(dataset: Dataset, folder: Path) -> Catalog:
    write_catalog(folder, dataset.read())
    return Catalog(folder)


def keypoints_of(catalog: Catalog) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in catalog.rows("keypoints"):
        found.setdefault(row["pair"], []).append(row)
    return found


def scores(catalog: Catalog, predicted: Mapping[str, Sequence[Sequence[float]]], alphas: list[float]) -> list[Row]:
    """PCK of predicted points, which are by pair in the order of the catalog's keypoints."""
    pairs, rows = {row["pair"]: row for row in catalog.rows("pairs")}, []
    for pair, keypoints in keypoints_of(catalog).items():
        for keypoint, (x, y) in zip(keypoints, predicted[pair], strict=True):
            error = float(np.hypot(x - keypoint["target_x"], y - keypoint["target_y"]))
            row = {"descriptor": "original", "category": pairs[pair]["category"], "predicted_x": x, "predicted_y": y}
            row |= {"similarity": 1.0, "confidence": 1.0, "error": error, "threshold": pairs[pair]["threshold"]}
            rows.append({name: keypoint[name] for name in keypoint if name in PREDICTIONS.names} | row)
    return evaluate(rescored(pa.Table.from_pylist(rows, schema=PREDICTIONS), catalog), catalog, alphas)


def score(rows: list[Row], rule: str, value: str, alpha: str, group: str = "category") -> Row:
    (found,) = [
        row
        for row in rows
        if (row["rule"], row["group"], row["value"], row["alpha"]) == (rule, group, value, float(alpha))
    ]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ap10k(golden: Path, tmp_path: Path, kind: Any) -> None:
    expected, predictions = answers(golden, "ap10k")
    root = golden / "sets/ap10k/ap-10k"
    catalog = catalog_of(AP10K(type="ap10k", root=str(root), pairs=kind), tmp_path)
    pairs, keypoints, images = catalog.rows("pairs"), keypoints_of(catalog), catalog.images()
    wanted = expected["pairs"][KINDS[kind]]
    assert {row["pair"] for row in pairs} == set(wanted)
    for row in pairs:
        answer, points = wanted[row["pair"]], keypoints[row["pair"]]
        assert (row["category"], row["source"], row["target"]) == tuple(
            answer[k] for k in ("category", "source", "target")
        )
        assert row["threshold"] == max(answer["target_bbox_xywh"][2:])
        assert [point["keypoint"] for point in points] == answer["keypoints"]
        for side in ("source", "target"):
            assert [[p[f"{side}_x"], p[f"{side}_y"]] for p in points] == answer[f"{side}_xy"]
            size = images[row[side]]
            assert [size["width"], size["height"]] == answer[f"{side}_size"]
    predicted = {pair: answer["predicted"] for pair, answer in predictions[KINDS[kind]].items()}
    rows, metrics = scores(catalog, predicted, [0.1, 0.05, 0.01]), expected["metrics"][kind]
    for alpha in ("0.1", "0.05", "0.01"):
        for how in ("image", "point"):
            assert score(rows, "box", "All", alpha)[how] / 100 == pytest.approx(metrics[how][alpha], abs=2e-6)
            subset = score(rows, "box", "All", alpha, "geometry_aware")
            assert subset[how] / 100 == pytest.approx(metrics[f"geometry_aware_{how}"][alpha], abs=2e-6)
            for category, answer in metrics["category"].items():
                assert score(rows, "box", category, alpha)[how] / 100 == pytest.approx(answer[how][alpha], abs=2e-6)
    assert score(rows, "box", "All", "0.1")["pairs"] == metrics["n_pairs"]
    assert score(rows, "box", "All", "0.1")["keypoints"] == metrics["n_points"]
    assert subset["pairs"] == metrics["geometry_aware_image"]["n_pairs"]


@pytest.mark.parametrize(("split", "pairs"), [("val", 4), ("trn", 5)])
def test_ap10k_splits(golden: Path, split: Any, pairs: int) -> None:
    tables = AP10K(type="ap10k", root=str(golden / "sets/ap10k/ap-10k"), split=split).read()
    assert len(tables.rows["pairs"]) == pairs


@pytest.mark.parametrize("inside", [True, False])
def test_pf_pascal(golden: Path, tmp_path: Path, inside: bool) -> None:
    expected, predictions = answers(golden, "pf_pascal")
    root = golden / "sets/pf_pascal" / ("PF-dataset-PASCAL" if inside else "")
    catalog = catalog_of(PFPascal(type="pf_pascal", root=str(root)), tmp_path)
    pairs, keypoints, images = catalog.rows("pairs"), keypoints_of(catalog), catalog.images()
    listed: list[Row] = expected["pairs"]["test"] if isinstance(expected["pairs"], dict) else expected["pairs"]
    for row, answer in zip(pairs, listed, strict=True):
        category = answer["category"]
        assert (row["category"], row["source"]) == (category, f"{category}/{answer['source']}")
        for side in ("source", "target"):
            found = [[point[f"{side}_x"], point[f"{side}_y"]] for point in keypoints[row["pair"]]]
            np.testing.assert_allclose(found, answer[f"{side}_xy"], atol=1e-9)
            size = images[row[side]]
            assert [size["width"], size["height"]] == answer[f"{side}_size"]
    predicted = {row["pair"]: p["predicted"] for row, p in zip(pairs, predictions["test"], strict=True)}
    rows, metrics = scores(catalog, predicted, [0.05, 0.1, 0.15]), expected["metrics"]
    rules = {
        "image": ("geoaware", "hpf_img"),
        "annotated box": ("hpf_bbox",),
        "squashed image": ("dhpf_img", "sd4match_img"),
    }
    for alpha in ("0.05", "0.1", "0.15"):
        for rule, names in rules.items():
            for name in names:
                answer = metrics[name]["image"][alpha]
                answer = answer["all"] if isinstance(answer, dict) else answer
                assert score(rows, rule, "All", alpha)["image"] / 100 == pytest.approx(answer, abs=2e-6)
        assert score(rows, "image", "All", alpha)["point"] / 100 == pytest.approx(
            metrics["geoaware"]["point"][alpha], abs=2e-6
        )
        for category, answer in metrics["sd_dino"]["category"].items():
            assert score(rows, "image", category, alpha)["point"] / 100 == pytest.approx(answer[alpha], abs=2e-6)
        mean = score(rows, "image", "Mean", alpha)["point"] / 100
        assert mean == pytest.approx(metrics["sd_dino"]["average"][alpha], abs=2e-6)


def test_pf_willow(golden: Path, tmp_path: Path) -> None:
    expected, predictions = answers(golden, "pf_willow")
    catalog = catalog_of(PFWillow(type="pf_willow", root=str(golden / "sets/pf_willow/PF-WILLOW")), tmp_path)
    pairs, keypoints = catalog.rows("pairs"), keypoints_of(catalog)
    listed: list[Row] = expected["pairs"]["test"] if isinstance(expected["pairs"], dict) else expected["pairs"]
    for row, answer in zip(pairs, listed, strict=True):
        assert row["category"] == answer["category"]
        assert [row["source"], row["target"]] == [answer[side].removesuffix(".png") for side in ("source", "target")]
        for side in ("source", "target"):
            found = [[point[f"{side}_x"], point[f"{side}_y"]] for point in keypoints[row["pair"]]]
            np.testing.assert_allclose(found, answer[f"{side}_xy"], atol=1e-9)
    predicted = {row["pair"]: p["predicted"] for row, p in zip(pairs, predictions["test"], strict=True)}
    rows, metrics = scores(catalog, predicted, [0.05, 0.1, 0.15]), expected["metrics"]
    for alpha in ("0.05", "0.1", "0.15"):
        extent = score(rows, "extent of the points", "All", alpha)
        assert extent["image"] / 100 == pytest.approx(metrics["hpf_bbox"]["image"][alpha], abs=2e-6)
        for category, value in metrics["sd4match_bbox"]["image"][alpha].items():
            scored = score(rows, "squashed box", "All" if category == "all" else category, alpha)
            assert scored["image"] / 100 == pytest.approx(value, abs=2e-6)
            assert scored["point"] / 100 == pytest.approx(metrics["sd4match_bbox"]["point"][alpha][category], abs=2e-6)


def test_symmetric_parts_of_spair(golden: Path) -> None:
    root = golden / "fusion/match"
    expected = json.loads((root / "geoaware_expected.json").read_text())["argmax"]["categories"]
    tables = SPair(type="spair", root=str(root / "SPair-mini")).read().rows
    category = {row["pair"]: row["category"] for row in tables["pairs"]}
    for name, answer in expected.items():
        rows = [row for row in tables["keypoints"] if category[row["pair"]] == name]
        assert len(rows) == answer["bbox"]["points"]
        assert sum(row["geometry_aware"] for row in rows) == answer["bbox"]["geometry_aware_points"]
