"""Matchers: equal to the published where there are answers, and confidence that means something."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ditf.data.catalog import Catalog, write_catalog
from ditf.data.catalog import Tables as CatalogTables
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.matching.matchers.base import Matcher
from ditf.matching.matchers.cycle import Cycle
from ditf.matching.matchers.mutual import Mutual
from ditf.matching.matchers.nearest import Nearest
from ditf.matching.matchers.window_soft_argmax import WindowSoftArgmax, soft_argmax
from ditf.matching.pairs import MatchingJob, predict
from ditf.metrics.pck import by_coverage
from ditf.registry import find_type
from ditf.tasks.correspondence import MatchingSettings

GRID, SIZE = (10, 12), (240, 200)
WINDOWS = {"window5": 5, "window7": 7, "global": 0, "gaussian5": -5}
MATCHERS = [Nearest(type="nearest"), Mutual(type="mutual"), Cycle(type="cycle"), WindowSoftArgmax(type="x", window=2)]


@pytest.mark.parametrize("name", WINDOWS)
def test_soft_argmax_of_given_maps(golden: Path, name: str) -> None:
    case = load_file(golden / "fusion/soft_argmax/case.safetensors")
    found = soft_argmax(case["similarity"].numpy().astype(np.float64), WINDOWS[name], 0.02)
    np.testing.assert_allclose(14 * found, 14 * case[f"{name}.xy_tokens"].numpy(), atol=1e-3)


@pytest.mark.parametrize(("name", "window"), [("window5", 5), ("window7", 7), ("soft_global", 0), ("kernel5", -5)])
def test_points_of_geoaware(golden: Path, name: str, window: int) -> None:
    folder = golden / "fusion/match"
    maps = load_file(folder / "geoaware_similarity.safetensors")
    for pair, answer in json.loads((folder / "geoaware_expected.json").read_text())[name]["pairs"].items():
        similarity = maps[f"{pair}.similarity"].numpy().astype(np.float64).reshape(-1, 60, 60)
        np.testing.assert_allclose(14 * soft_argmax(similarity, window, 0.02) + 7, answer["predicted"], atol=1e-3)


@given(st.integers(0, 9), st.integers(0, 11), st.integers(1, 4))
def test_a_peak_is_found_by_every_window(y: int, x: int, window: int) -> None:
    similarity = np.zeros((1, *GRID))
    similarity[0, y, x] = 1
    np.testing.assert_allclose(soft_argmax(similarity, window, 0.001), [[x, y]], atol=1e-9)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Catalog]:
    """An image and itself shifted by two tokens, of which half is replaced by noise."""
    folder, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(0)
    one = rng.standard_normal((*GRID, 16)).astype(np.float32)
    other = np.roll(one, 2, 1)
    other[:, 8:] = rng.standard_normal((GRID[0], 4, 16))
    items = [StoreItem(name, name, GRID, SIZE, "") for name in ("a", "b")]
    store = write_store(folder / "store", items, [{0: (x.reshape(-1, 16), None)} for x in (one, other)])
    points = [(x, y) for y in range(1, 9) for x in range(1, 9)]
    keypoints = [
        {"pair": "p", "keypoint": n, "name": "", "source_x": 20 * x + 9.5, "source_y": 20 * y + 9.5}
        | {"target_x": 20 * (x + 2) + 9.5, "target_y": 20 * y + 9.5}
        for n, (x, y) in enumerate(points)
    ]
    image = {
        "path": "x",
        "sha256": "",
        "pixels_sha256": "",
        "width": SIZE[0],
        "height": SIZE[1],
        "category": "c",
        "prompt": "",
    }
    pairs = [{"pair": "p", "category": "c", "source": "a", "target": "b", "threshold": 200.0}]
    rows = {"images": [{"id": n, **image} for n in ("a", "b")], "pairs": pairs, "keypoints": keypoints}
    write_catalog(folder / "catalog", CatalogTables(rows, "longer"))
    return store, Catalog(folder / "catalog")


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda m: type(m).__name__)
def test_what_is_there_is_found(pair: tuple[FeatureStore, Catalog], matcher: Matcher) -> None:
    table = predict(MatchingJob(pair[0], 0, "original", matcher=matcher), pair[1])
    there = table.filter(pc.less(table["target_x"], 160))
    assert pc.mean(pc.less(there["error"], 20)).as_py() == 1


@pytest.mark.parametrize(
    "matcher", [Mutual(type="mutual", floor=0.5), Cycle(type="cycle")], ids=lambda m: type(m).__name__
)
def test_the_surest_matches_are_right(pair: tuple[FeatureStore, Catalog], matcher: Matcher) -> None:
    table = predict(MatchingJob(pair[0], 0, "original", matcher=matcher), pair[1])
    rows = {row["coverage"]: row["point"] for row in by_coverage(table, [0.1])}
    assert rows[100] < 90
    assert rows[50] == 100
    assert list(rows) == list(range(100, 0, -10))


@pytest.mark.parametrize("given", ["window-soft-argmax", {"type": "window_soft_argmax", "window": 5}, "mutual"])
def test_a_matcher_by_its_name_or_with_settings(given: Any) -> None:
    found = MatchingSettings(block=0, matcher=given).matcher
    assert isinstance(found, (WindowSoftArgmax, Mutual))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("neerest", "is not known. Did you mean nearest?"),
        ({"window": 3}, r"matcher\.type\s+missing. Add it."),
        ({"type": "mutual", "flor": 1}, r"matcher\.flor\s+unknown parameter. Did you mean floor?"),
        ({"type": "window-soft-argmax", "temperature": 0}, r"matcher\.temperature\s"),
        (3, "should be a mapping of settings, not 3"),
    ],
)
def test_what_is_no_matcher_is_reported(given: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MatchingSettings(block=0, matcher=given)


def test_matchers_are_registered() -> None:
    for name in ("nearest", "mutual", "cycle", "window-soft-argmax"):
        assert issubclass(find_type(Matcher, name), Matcher)
