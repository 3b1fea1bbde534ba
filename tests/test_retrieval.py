"""The index against exact search."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.retrieval import index
from ditf.retrieval.index import IndexSettings, build, factory_string
from ditf.retrieval.search import FeatureIndex

CHANNELS = 24


def make_store(path: Path, count: int = 40, seed: int = 0) -> FeatureStore:
    """Images of different grids whose tokens come from a few clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, CHANNELS))
    items = [
        StoreItem(f"kind{i % 3}/image {i}", f"{seed} {i}", (5 + i % 3, 6), (96, 100), f"{i}") for i in range(count)
    ]
    features = []
    for item in items:
        tokens = centres[rng.integers(0, 12, item.tokens)] + 0.4 * rng.standard_normal((item.tokens, CHANNELS))
        modulation = rng.standard_normal((3, CHANNELS)).astype(np.float32)
        features.append({28: (tokens.astype(np.float32), modulation)})
    return write_store(path, items, features, extraction_config={"seed": seed})


def make(path: Path, kind: str, store: FeatureStore) -> tuple[FeatureIndex, dict[str, float]]:
    recall = build(store, IndexSettings(kind, 28, "adaln", ()), path)
    return FeatureIndex(path, store), recall


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store that no test changes."""
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """One of three images."""
    return make_store(tmp_path_factory.mktemp("small"), 3)


def every_descriptor(store: FeatureStore) -> NDArray[np.float32]:
    return np.concatenate([unit(store[item].descriptors("adaln")) for item in store.ids])


def recall_at_10(found: FeatureIndex, every: NDArray[np.float32]) -> float:
    """Of 100 tokens, without the token itself."""
    own = np.sort(np.random.default_rng([0, 1]).choice(len(every), 100, replace=False))
    similarity = every[own] @ every.T
    similarity[np.arange(100), own] = -2
    hits = []
    for query, row in zip(own, similarity, strict=True):
        near = found.nearest(every[query], 11)
        hits.append(len({*near[near != query][:10]} & {*np.argsort(-row, kind="stable")[:10]}) / 10)
    return float(np.mean(hits))


@pytest.mark.parametrize("kind", ["auto", "flat", "ivfsq", "ivfpq", "hnsw", "PCA16,IVF8,Flat"])
def test_every_kind_finds_what_exact_search_finds(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    found, recall = make(tmp_path / "index", kind, store)
    every = every_descriptor(store)
    starts = np.cumsum([0, *store.grids(28).prod(1)])
    assert len(found) == len(every)
    hits = []
    for row in range(0, len(every), 37):
        exact = np.argsort(-(every @ every[row]), kind="stable")[:5]
        places = found.search(every[row], 5)
        rows = [starts[store.index(place.image)] + place.token for place in places]
        for place, where in zip(places, rows, strict=True):
            assert place.similarity == pytest.approx(every[where] @ every[row], abs=1e-5)
        assert [p.similarity for p in places] == sorted((p.similarity for p in places), reverse=True)
        hits.append(len({*rows} & {*exact}) / 5)
    assert np.mean(hits) >= (1 if kind in ("auto", "flat") else 0.6)
    if kind != "hnsw":
        assert sorted(found.nearest(every[0], len(every))) == list(range(len(every)))
    assert all(recall[f"recall@{k}"] == 1 for k in (1, 10, 100) if kind == "flat")
    assert recall["recall@10"] == pytest.approx(recall_at_10(found, every), abs=1e-3)
    assert (recall["recall@10"] < 1) == (kind not in ("auto", "flat"))


def test_each_image_once(store: FeatureStore, tmp_path: Path) -> None:
    found, _ = make(tmp_path / "index", "flat", store)
    query = every_descriptor(store)[50]
    places = found.search(query, len(store), per_image=True)
    assert sorted(place.image for place in places) == sorted(store.ids)
    best = {item: float((found.descriptors(item) @ query).max()) for item in store.ids}
    assert [p.similarity for p in places] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)


def test_an_image_is_left_out(store: FeatureStore, tmp_path: Path) -> None:
    index, _ = make(tmp_path / "index", "flat", store)
    item = store.ids[7]
    query = index.descriptors(item)[11]
    assert index.search(query, 1)[0].image == item
    every = index.search(query, 50)
    others = index.search(query, 50 - sum(hit.image == item for hit in every), exclude=item)
    places = [(hit.image, hit.token) for hit in every if hit.image != item]
    assert [(hit.image, hit.token) for hit in others] == places
    images = index.search(query, len(store) - 1, per_image=True, exclude=item)
    assert sorted([item, *(hit.image for hit in images)]) == sorted(store.ids)
    mean = unit(index.descriptors(item).mean(0)[None])[0]
    assert [name for name, _ in index.search_images(mean, 3)][1:] == [
        name for name, _ in index.search_images(mean, 2, exclude=item)
    ]
    with pytest.raises(UserError, match="39 images to find"):
        index.search(query, len(store), per_image=True, exclude=item)


def test_a_region_finds_regions(store: FeatureStore, tmp_path: Path) -> None:
    index, _ = make(tmp_path / "index", "flat", store)
    item = store.ids[4]  # 6 rows and 6 columns on 96x100 pixels
    tokens = index.descriptors(item).reshape(6, 6, -1)
    query = tokens[2:4, 1:4].reshape(6, -1).mean(0)
    hits = index.search_regions(query, (2, 3), 5)
    assert len({hit.image for hit in hits}) == 5
    assert (hits[0].image, hits[0].token) == (item, None)
    assert hits[0].box == pytest.approx((16, 100 / 3, 64, 200 / 3))
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    for hit in hits:  # the similarity is the greatest of all windows, pooled one by one
        h, w = store.grid(hit.image)
        maps = index.descriptors(hit.image).reshape(h, w, -1)
        windows = [maps[y : y + 2, x : x + 3].reshape(6, -1).mean(0) for y in range(h - 1) for x in range(w - 2)]
        assert hit.similarity == pytest.approx((unit(np.array(windows)) @ unit(query[None])[0]).max(), abs=1e-5)
    assert item not in {hit.image for hit in index.search_regions(query, (2, 3), 5, exclude=item)}
    several = [hit.box for hit in index.search_regions(query, (2, 3), 30, per_image=False) if hit.image == item]
    assert len(several) > 1
    for number, one in enumerate(several):
        for other in several[:number]:
            overlap = [min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1)]
            assert min(overlap) <= 1e-6
    assert index.search_regions(query, (99, 99), 1)[0].box[:2] == (0, 0)  # the whole image


def test_images_by_their_mean(store: FeatureStore, tmp_path: Path) -> None:
    found, _ = make(tmp_path / "index", "ivfsq", store)
    means = unit(np.stack([found.descriptors(item).mean(0) for item in store.ids]))
    wanted = [store.ids[i] for i in np.argsort(-(means @ means[3]))[:4]]
    assert [name for name, _ in found.search_images(means[3], 4)] == wanted
    assert found.search_images(means[3], 1)[0][1] == pytest.approx(1, abs=1e-5)


def test_rows_say_where(small_store: FeatureStore, tmp_path: Path) -> None:
    found, _ = make(tmp_path / "index", "flat", small_store)
    rows = pq.read_table(tmp_path / "index/rows.parquet").to_pylist()
    assert len(rows) == len(found)
    place = found.search(found.descriptors(small_store.ids[1])[7], 1)[0]  # of a grid 6 down and 6 across
    assert (place.image, place.token) == (small_store.ids[1], 7)
    assert place.box == pytest.approx((16, 100 / 6, 32, 200 / 6), abs=1e-3)
    assert place.point == pytest.approx((24, 25), abs=1e-3)


def test_an_index_of_other_features_is_refused(small_store: FeatureStore, tmp_path: Path) -> None:
    make(tmp_path / "index", "flat", small_store)
    with pytest.raises(UserError, match="Run `dvc repro`"):
        FeatureIndex(tmp_path / "index", make_store(tmp_path / "other", 3, seed=1))


@pytest.mark.parametrize("damage", ["index.json", "tokens.faiss", "images.faiss", "rows.parquet"])
@pytest.mark.parametrize("flip", [0.1, 0.5, 0.9])
def test_a_damaged_index_is_one_line(small_store: FeatureStore, tmp_path: Path, damage: str, flip: float) -> None:
    make(tmp_path / "index", "flat", small_store)
    data = bytearray((tmp_path / "index" / damage).read_bytes())
    data[int(flip * len(data))] ^= 1
    (tmp_path / "index" / damage).write_bytes(data)
    with pytest.raises(UserError, match="not a readable index") as caught:
        FeatureIndex(tmp_path / "index", small_store).search(np.ones(CHANNELS, np.float32), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["nonsense", "PCA99,Flat", "IVF999999,Flat"])
def test_a_wrong_kind_is_one_line(small_store: FeatureStore, tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="kind: "):
        make(tmp_path / "index", kind, small_store)


def test_memory_is_bounded_by_samples(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "AXES_SAMPLE", 64)
    monkeypatch.setattr(index, "CELL_SAMPLE", 2)
    seen: list[int] = []
    train = faiss.IndexIVFScalarQuantizer.train

    def watched(self: Any, x: NDArray[np.float32]) -> None:
        seen.append(len(x))
        train(self, x)

    monkeypatch.setattr(faiss.IndexIVFScalarQuantizer, "train", watched)
    make(tmp_path / "index", "PCA8,IVF16,SQ8", store)
    assert 64 <= seen[0] <= 64 + 40  # a token an image more, at most


def test_the_kind_follows_the_size() -> None:
    assert factory_string("auto", 50_000, 3072) == "Flat"
    assert factory_string("auto", 1_000_000, 3072) == "PCA192,IVF1024,SQ8"
    assert factory_string("OPQ8,PQ8", 10, 3072) == "OPQ8,PQ8"
