"""The feature store: what is written is read, and what is damaged is reported."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from ditf import open_store
from ditf.errors import UserError
from ditf.features.store import FeatureStore, array_names, metadata_files
from ditf.features.store_writer import BlockFeatures, StoreItem, StoreWriter, write_store
from ditf.types import Encoding

ITEMS = [StoreItem(f"cat/{i}", f"key{i}", (2 + i % 3, 3), (40 + i, 30), f"prompt {i // 2}") for i in range(7)]
BLOCKS = [24, 28]


def features(index: int) -> dict[int, BlockFeatures]:
    rng = np.random.default_rng(index)
    shared = np.random.default_rng(index // 2)  # of items with the same prompt
    return {
        block: (
            (block * rng.standard_normal((ITEMS[index].tokens, 5))).astype(np.float32),
            shared.standard_normal((3, 5)).astype(np.float32),
        )
        for block in BLOCKS
    }


def write(path: Path, shard: int | None = None, encoding: Encoding = "float16") -> FeatureStore:
    return write_store(path, ITEMS, map(features, range(7)), encoding, {"seed": 1}, shard=shard)


@pytest.mark.parametrize("shard", [None, 3])
def test_round_trip(tmp_path: Path, shard: int | None) -> None:
    write(tmp_path / "store", shard)
    store = open_store(tmp_path / "store")
    assert isinstance(store, FeatureStore)
    assert store.ids == [item.id for item in ITEMS]
    assert store.attributes["extraction_config"] == {"seed": 1}
    assert store.items_per_file == (shard or 1)
    for index, item in enumerate(ITEMS):
        assert (store.grid(item.id), store.size(item.id)) == (item.grid, item.size)
        for block in BLOCKS:
            tokens, modulation = features(index)[block]
            found = store.features(block, item.id)
            np.testing.assert_array_equal(found.tokens, tokens.astype(np.float16))
            np.testing.assert_array_equal(found.modulation, modulation)
    first = store["cat/4"]
    np.testing.assert_array_equal(first.tokens, store.features(24, "cat/4").tokens)
    assert first.map("adaln").shape == (5, *ITEMS[4].grid)
    assert repr(first) == "ImageFeatures(3x3 tokens of 5 channels, float16, AdaLN, massive channels [])"
    assert repr(store).endswith("store', 7 items, blocks [24, 28])")


def test_any_zarr_library_can_read_it(tmp_path: Path) -> None:
    group = zarr.open_group(write(tmp_path / "store", 3).path, mode="r")
    array = group["block28/tokens"]
    assert isinstance(array, zarr.Array)
    assert (array.shape, array.chunks, array.shards) == ((7, 12, 5), (1, 12, 5), (3, 12, 5))
    for index, item in enumerate(ITEMS):
        np.testing.assert_array_equal(array[index, : item.tokens], features(index)[28][0].astype(np.float16))
        assert not np.asarray(array[index, item.tokens :]).any()


def test_a_store_without_adaln_gives_original_descriptors(tmp_path: Path) -> None:
    tokens = np.ones((6, 4), np.float32)
    item = StoreItem("a", "k", (2, 3), (9, 9), "")
    found = write_store(tmp_path / "store", [item], [{3: (tokens, None)}])["a"]
    assert found.modulation is None
    np.testing.assert_array_equal(found.descriptors(), tokens)
    with pytest.raises(UserError, match="needs AdaLN"):
        found.descriptors("adaln")


def test_massive_channels_come_with_the_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((item.tokens, 32)).astype(np.float32) for item in ITEMS]
    for x in tokens:
        x[:, 3] = 100 + x[:, 3]
    modulation = rng.standard_normal((3, 32)).astype(np.float32)
    store = write_store(tmp_path / "store", ITEMS, [{28: (x, modulation)} for x in tokens])
    assert store.massive(28) == [3]
    found = store["cat/0"]
    np.testing.assert_array_equal(found.descriptors(), found.descriptors("adaln+discard", [3]))
    assert store.statistics(28).mean[3] == pytest.approx(np.concatenate(tokens)[:, 3].mean(), rel=1e-3)


def test_int8_has_a_scale_per_channel_and_holds_large_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((item.tokens, 5)).astype(np.float32) for item in ITEMS]
    for x in tokens:
        x[:, 2] = 1000 + 100 * x[:, 2]  # a massive channel
        x[:, 3] = 7  # a channel that does not vary
        x[:, 4] *= 1e6  # beyond float16
    store = write_store(tmp_path / "store", ITEMS, [{28: (x, None)} for x in tokens], "int8")
    for item, x in zip(ITEMS, tokens, strict=True):
        assert (np.abs(store.tokens(28, item.id) - x) <= np.ptp(x, 0) / 254 * 0.501 + 1e-4).all()


@pytest.mark.parametrize(
    ("value", "encoding", "expected"),
    [
        (1e6, "float16", "Use `encoding: float32`, or `int8`."),
        (np.inf, "float16", "not a finite number"),
        (np.nan, "int8", "not a finite number"),
        (-np.inf, "float32", "not a finite number"),
    ],
)
def test_a_value_that_does_not_fit_names_its_item(
    tmp_path: Path, value: float, encoding: Encoding, expected: str
) -> None:
    def broken() -> Iterator[dict[int, BlockFeatures]]:
        for index in range(7):
            found = features(index)
            if index == 2:
                found[28][0][0, 0] = value
            yield found

    with pytest.raises(UserError, match=rf"item 'cat/2', block 28: .*{expected}"):
        write_store(tmp_path / "store", ITEMS, broken(), encoding)
    assert StoreWriter(tmp_path / "store").holds(range(1, 2))
    assert not StoreWriter(tmp_path / "store").holds(range(2, 3))


def test_float32_keeps_every_bit(tmp_path: Path) -> None:
    store = write(tmp_path / "store", encoding="float32")
    np.testing.assert_array_equal(store.tokens(28, "cat/3"), features(3)[28][0])


def damaged(path: Path, opened: FeatureStore | None = None) -> Iterator[str]:
    """What a store reports as damaged, when it is opened or read."""
    try:
        yield from (what for what, _ in (opened or FeatureStore(path)).damage())
    except UserError as error:
        yield str(error)


@pytest.mark.parametrize(("shard", "small", "large"), [(None, 3, 307), (3, 11, 911)])
def test_every_flipped_bit_is_reported_by_name(tmp_path: Path, shard: int | None, small: int, large: int) -> None:
    """small, large: every so many bytes of files; those of modulation are the same in shards."""
    store = write(tmp_path / "store", shard)
    files = [path for path in store.path.rglob("*") if path.is_file()]
    metadata = metadata_files(store.path, array_names(store.attributes))
    named = {
        **{store.chunk_path("block28/tokens", n): f"item '{item.id}' is" for n, item in enumerate(ITEMS)},
        **{store.chunk_path("block24/modulation", n): f"item {prompt!r} is" for n, prompt in enumerate(store.prompts)},
        store.chunk_path("block24/statistics", 0): "item 'statistics' is",
    }
    assert len(files) > len(metadata)
    for path in files:
        data = path.read_bytes()
        for position in range(0, len(data), small if len(data) < 100 else large):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
            found = next(damaged(store.path, None if path in metadata else store), None)
            assert found, (path, position)
            if path in metadata:
                assert "not a feature store, or a damaged one" in found
            elif path in named and shard is None:
                assert named[path] in found
        path.write_bytes(data)
    assert not list(damaged(store.path))


@pytest.mark.parametrize("name", ["block24/tokens", "block24/modulation"])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_or_missing_chunk_is_reported(tmp_path: Path, name: str, keep: int) -> None:
    store = write(tmp_path / "store")
    path = store.chunk_path(name, 0)
    if keep:
        path.write_bytes(path.read_bytes()[:keep])
    else:
        path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        FeatureStore(store.path).features(24, "cat/0")


def test_what_others_put_into_a_store_does_no_harm(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    (store.path / ".ipynb_checkpoints").mkdir()
    (store.path / "block28/.DS_Store").write_text("x")
    assert not list(damaged(store.path))


def test_foreign_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a feature store"):
        FeatureStore(tmp_path / "nothing")
    zarr.open_group(tmp_path / "foreign", mode="w")
    with pytest.raises(UserError, match="not a feature store"):
        FeatureStore(tmp_path / "foreign")
    for version in (2, 99):
        path = write(tmp_path / f"version{version}").path
        zarr.open_group(path, mode="r+").attrs["version"] = version
        with pytest.raises(UserError, match=f"format version {version}.*run|`dvc repro -f features@"):
            FeatureStore(path)


def test_unknown_items_and_blocks_are_named(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    with pytest.raises(UserError, match="no features of 'dog/1'"):
        store.features(28, "dog/1")
    with pytest.raises(UserError, match=r"holds blocks \[24, 28\], not 3"):
        store.features(3, "cat/1")
    assert "cat/1" in store and "dog/1" not in store


def test_many_items_share_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditf.features.store_writer.MOST_FILES", 7)
    store = write(tmp_path / "store")
    assert store.items_per_file == 2
    assert len(list((store.path / "block28/tokens").glob("c.*"))) == 4
