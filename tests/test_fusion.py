"""Fused features: equal to the published, and a store like any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.fusion import FusedStore, PrincipalAxes, fuse, open_store, resample, write_fusion
from ditf.features.settings import FusionSettings
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from tests.conftest import BLOCK, MODELS, Project

Part = tuple[NDArray[np.float32], tuple[int, int]]


def part(case: dict[str, Any], name: str, image: int, axes: PrincipalAxes | None = None) -> Part:
    x = case[f"{name}.{image}"].numpy()
    tokens = x.reshape(len(x), -1).T
    return (axes(tokens) if axes else tokens), (x.shape[1], x.shape[2])


def pairwise(case: dict[str, Any], name: str, count: int) -> PrincipalAxes:
    both = [part(case, name, image)[0] for image in (1, 2)]
    return PrincipalAxes.of(np.concatenate(both), count)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (one, other))
    found: NDArray[np.float64] = a @ b.T
    return found


# Of each case: the blocks of the first half with the axes that each is reduced to, those of the second, the weight.
CASES: dict[str, tuple[list[tuple[str, int]], list[tuple[str, int]], float]] = {
    "concat": ([("a", 0)], [("b", 0)], 0.5),
    "concat_0.3_0.7": ([("a", 0)], [("b", 0)], 0.7),
    "concat_0.7_0.3": ([("a", 0)], [("b", 0)], 0.3),
    "concat_coarse": ([("a_coarse", 0)], [("b", 0)], 0.5),
    "concat_copca_b": ([("a", 0)], [("b", 16)], 0.5),
    "copca": ([("a", 32)], [("b", 0)], 0.5),
    "copca_0.3_0.7": ([("a", 32)], [("b", 0)], 0.7),
    "copca_only": ([("a", 32)], [("b", 0)], 0.0),
    "copca_coarse": ([("a_coarse", 32)], [("b", 0)], 0.5),
    "copca_hard": ([("a_hard", 32)], [("b", 0)], 0.5),
    "copca_layers": ([("s5", 8), ("s4", 12), ("s3", 16)], [("b", 0)], 0.5),
    "geoaware_layers": ([("s5", 0), ("s4", 0), ("s3", 0)], [("b", 0)], 0.5),
    "geoaware_concat": ([("a", 0)], [("b", 0)], 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_similarities_are_the_published(golden: Path, name: str) -> None:
    case = load_file(golden / "fusion/fuse/case.safetensors")
    *halves, weight = CASES[name]
    fused = []
    for image in (1, 2):
        parts = [[part(case, n, image, pairwise(case, n, k) if k else None) for n, k in half] for half in halves]
        chained = (any(k for _, k in halves[0]), any(k for _, k in halves[1]))
        fused.append(fuse(parts[0], parts[1], weight, (12, 12), chained))
    exact = f"{name}.cosine_exact"
    expected = case[exact if exact in case else f"{name}.cosine"].numpy()
    np.testing.assert_allclose(cosine(*fused), expected, atol=1e-4)


def test_resampling_a_grid_to_itself_changes_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    np.testing.assert_array_equal(resample(x, (4, 5), (4, 5)), x)
    assert resample(x, (4, 5), (8, 3)).shape == (24, 3)
    constant = np.ones((20, 3), np.float32)
    np.testing.assert_allclose(resample(constant, (4, 5), (9, 7)), 1)


SIZES = {"a": (96, 64), "b": (64, 64), "c": (48, 80)}


def store(path: Path, channels: int, stride: int, seed: int) -> FeatureStore:
    rng = np.random.default_rng(seed)
    items = [StoreItem(n, f"{n}{seed}", (h // stride, w // stride), (w, h), "") for n, (w, h) in SIZES.items()]
    tokens = [rng.standard_normal((item.tokens, channels)).astype(np.float32) for item in items]
    return write_store(path, items, [{3: (x, None)} for x in tokens], "float32", stride=stride)


def fusion(**changes: Any) -> FusionSettings:
    half = {"blocks": [3], "descriptor": "original"}
    return FusionSettings.model_validate(
        {"first": {"features": "one", "pca": [6], **half}, "second": {"features": "two", **half}} | changes
    )


@pytest.fixture
def stores(tmp_path: Path) -> list[FeatureStore]:
    return [store(tmp_path / "one", 12, 16, 0), store(tmp_path / "two", 8, 8, 1)]


def test_a_fusion_is_a_store(stores: list[FeatureStore], tmp_path: Path) -> None:
    write_fusion(tmp_path / "both", fusion(), stores)
    fused = open_store(tmp_path / "both")
    assert isinstance(fused, FusedStore)
    assert (fused.ids, fused.blocks, fused.channels(0), fused.stride(0)) == (stores[1].ids, [0], 14, 8)
    features = fused["b"]
    assert features.grid == (8, 8)
    tokens = features.descriptors()
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 0.5**0.5, atol=1e-6)
    np.testing.assert_allclose(tokens[:, 6:], 0.5 * unit(stores[1]["b"].descriptors("original")), atol=1e-6)
    assert fused.digest == open_store(tmp_path / "both").digest
    write_fusion(tmp_path / "other", fusion(weight=0.2), stores)
    assert fused.digest != open_store(tmp_path / "other").digest


def test_axes_over_a_pair_need_the_pair(stores: list[FeatureStore], tmp_path: Path) -> None:
    write_fusion(tmp_path / "both", fusion(over="pair"), stores)
    fused = open_store(tmp_path / "both")
    with pytest.raises(UserError, match="its PCA is over pairs"):
        fused["a"]
    one, other = fused.pair(0, "a", "b")
    assert one.tokens.shape == (12 * 8, 14)
    same, _ = fused.pair(0, "a", "c")
    assert not np.allclose(one.tokens, same.tokens)
    alone, again = fused.pair(0, "a", "a")
    np.testing.assert_array_equal(alone.tokens, again.tokens)
    assert other.grid == (8, 8)


def test_what_is_no_fusion_is_reported(stores: list[FeatureStore], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Use at most 12"):
        write_fusion(
            tmp_path / "both",
            fusion(first={"features": "one", "blocks": [3], "descriptor": "original", "pca": [13]}),
            stores,
        )
    other = write_store(
        tmp_path / "few", [StoreItem("a", "a", (4, 6), (96, 64), "")], [{3: (np.ones((24, 4), np.float32), None)}]
    )
    with pytest.raises(UserError, match="not of the same images"):
        write_fusion(tmp_path / "both", fusion(), [stores[0], other])
    write_fusion(tmp_path / "both", fusion(), stores)
    basis = tmp_path / "both/basis.safetensors"
    data = bytearray(basis.read_bytes())
    data[-1] ^= 1
    basis.write_bytes(bytes(data))
    with pytest.raises(UserError, match="a damaged one"):
        open_store(tmp_path / "both")
    write_fusion(tmp_path / "both", fusion(), stores)
    record = tmp_path / "both/fusion.json"
    record.write_text(record.read_text().replace('"weight": 0.5', '"weight": 0.6'))
    with pytest.raises(UserError, match="disagrees with its checksum"):
        open_store(tmp_path / "both")
    write_fusion(tmp_path / "both", fusion(), stores)
    import shutil

    shutil.rmtree(tmp_path / "two")
    store(tmp_path / "two", 8, 8, 2)
    with pytest.raises(UserError, match="belongs to an earlier version of the features"):
        open_store(tmp_path / "both")


@pytest.mark.slow
def test_fused_features_through_the_pipeline(project: Project) -> None:
    document = project.params
    document["models"]["dino"] = {"type": "vit", "source": "tiny-0"}
    document["features"]["spair-dino"] = {"dataset": "spair", "model": "dino", "img_size": 168, "blocks": [11]}
    first = {"features": "spair-flux", "blocks": [BLOCK], "descriptor": "adaln+discard", "pca": [32]}
    second = {"features": "spair-dino", "blocks": [11], "descriptor": "original"}
    document["fusions"] = {"both": {"first": first, "second": second}}
    predict = {"block": 0, "descriptors": ["original"]}
    common = {"dataset": "spair", "features": "both", "score": {}}
    document["tasks"]["both"] = {"type": "correspondence", "predict": predict, **common}
    document["tasks"]["both-search"] = {"type": "retrieval", "predict": predict, **common}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(document))
    project.stages("entries", "text@spair-dino", "features@spair-dino", "fusion@both")
    project.stages(*(f"{stage}@{task}" for task in ("both", "both-search") for stage in ("predict", "score", "draw")))
    once = json.loads((project.folder / "results/both/metrics.json").read_text())["original"]
    assert 0 < once["point@0.1"] <= 100
    assert "both: PCK by category" in project.check("ditf", "results")
    project.check("ditf", "search", "cat/cat_00", "--at", "80,60", "--task", "both-search")
    assert "a fusion has only features of its data set" in project.fail(
        "ditf", "search", "data/sample/PF-WILLOW/cat(S)/000000000017.png", "--task", "both-search"
    )
    # Another weight, and axes over each pair, run no model.
    project.set("fusions.both.weight", 1.0)
    project.check("python", "-m", "stages.fusion", "both", without=MODELS)
    project.check("python", "-m", "stages.predict", "both", without=MODELS)
    project.stages("score@both")
    assert json.loads((project.folder / "results/both/metrics.json").read_text())["original"] != once
    project.set("fusions.both.over", "pair")
    project.check("python", "-m", "stages.fusion", "both", without=MODELS)
    project.check("python", "-m", "stages.predict", "both", without=MODELS)
    project.stages("score@both")
    project.set("fusions.both.first.descriptor", "adaln+discrad")
    assert "fusions.both.first.descriptor" in project.fail("ditf", "plan")
