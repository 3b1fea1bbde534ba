"""What the analysis says of a store whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from ditf.config.params import load_params
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.report import analysis
from ditf.types import MODULATED
from stages import analysis as analysis_stage
from tests.conftest import ROOT, inside

CHANNELS, MASSIVE = 24, 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Three images and two blocks. Channel 5 is massive in block 2, and third by its gate."""
    rng = np.random.default_rng(0)
    modulation = rng.uniform(0.1, 0.2, (1, 3, CHANNELS)).astype(np.float32)
    modulation[0, 2, [7, 9, MASSIVE]] = (-3, 2, 1)
    items = [StoreItem(f"image{n}", f"key{n}", (4, 6), (96, 64), "a photo") for n in range(3)]
    features = []
    for _ in items:
        tokens = rng.standard_normal((2, 24, CHANNELS)).astype(np.float32)
        tokens[1, :, MASSIVE] += 80
        features.append({1: (tokens[0], modulation), 2: (tokens[1], modulation)})
    return write_store(tmp_path_factory.mktemp("analysis") / "store", items, features, "float32")


def test_the_largest_channels_and_their_rank_in_the_adaln(store: FeatureStore) -> None:
    rows = [row for row in analysis.largest(store) if row["block"] == 2]
    assert len(rows) == 10
    assert [row["magnitude"] for row in rows] == sorted((row["magnitude"] for row in rows), reverse=True)
    first = rows[0]
    assert (first["channel"], first["massive"], first["gate rank"]) == (MASSIVE, 1, 3)
    tokens = np.concatenate([store.tokens(2, item) for item in store.ids])
    assert first["mean"] == pytest.approx(tokens[:, MASSIVE].mean(), rel=1e-5)
    assert first["std"] == pytest.approx(tokens[:, MASSIVE].std(), rel=1e-5)
    assert first["ratio"] == pytest.approx(first["magnitude"] / np.median(np.abs(tokens).mean(0)), rel=1e-5)
    assert not any(row["massive"] for row in analysis.largest(store) if row["block"] == 1)


def test_similarities_are_those_of_every_two_tokens_of_an_image(store: FeatureStore) -> None:
    found = analysis.similarities(store, 2)
    assert tuple(found) == MODULATED
    expected = np.concatenate([1 - pdist(store.tokens(2, item).astype(float), "cosine") for item in store.ids])
    np.testing.assert_allclose(found["original"], expected, atol=1e-5)
    means = {row["descriptor"]: row["mean"] for row in analysis.similarity_rows(2, found)}
    assert means["original"] > 0.99 and abs(means["adaln+discard"]) < means["original"]


def test_plots_have_all_blocks_and_descriptors(store: FeatureStore) -> None:
    lines = analysis.draw_over_blocks(store).axes[0].lines
    assert [line.get_label() for line in lines] == [f"channel {MASSIVE}", "median channel"]
    maps = analysis.draw_maps(store, 2)
    assert len(maps.axes) == 3 * (1 + len(MODULATED))
    shown = np.asarray(maps.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, store.tokens(2, "image0")[:, MASSIVE].reshape(4, 6))
    assert len(analysis.draw_similarities(analysis.similarities(store, 2), 2).axes[0].patches) == len(MODULATED)


def test_of_a_model_without_adaln_there_is_one_descriptor(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    plain = write_store(tmp_path / "store", [StoreItem("a", "a", (2, 3), (48, 32), "")], [{1: (tokens, None)}])
    assert tuple(analysis.similarities(plain, 1)) == ("original",)
    assert not any("rank" in name for name in analysis.largest(plain)[0])


def test_images_of_one_token_have_no_similarities(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).standard_normal((3, 1, 8)).astype(np.float32)
    items = [StoreItem(f"image{n}", f"key{n}", (1, 1), (40, 40), "") for n in range(3)]
    folder = tmp_path / "cache/features/small"
    store = write_store(folder, items, [{1: (image, None)} for image in tokens])
    assert analysis.similarities(store, 1) == {}
    with inside(tmp_path):
        analysis_stage.main(load_params(ROOT / "params.yaml"), "small")
    names = {path.name for path in (tmp_path / "results/analysis/small").iterdir()}
    assert names == {"block1.csv", "block1.png", "largest.csv", "maps1.png"}
