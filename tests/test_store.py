"""The feature store: what is written is read, and what is damaged is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import pipeline.writer
from pipeline.cost import FLUX1_DEV, estimate
from pipeline.errors import UserError
from pipeline.repair import rebuild_shards
from pipeline.store import Encoding, Features, FeatureStore, Item, layout_files
from pipeline.writer import StoreWriter
from tests.conftest import contents

ITEMS = [Item(f"cat/{i}", f"key{i}", (2 + i % 3, 3)) for i in range(7)]
BLOCKS = [24, 28]


def features(index: int) -> dict[int, Features]:
    rng = np.random.default_rng(index)
    return {
        block: Features(
            (block * rng.standard_normal((ITEMS[index].tokens, 5))).astype(np.float32),
            rng.standard_normal((3, 5)).astype(np.float32),
        )
        for block in BLOCKS
    }


def write(folder: Path, order: list[int]) -> Path:
    writer = StoreWriter(folder, ITEMS, BLOCKS, {"seed": 1})
    for index in order:
        writer.write(index, features(index))
    return writer.finish()


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.writer, "SHARD_BYTES", 3 * 12 * 5 * 2)  # three items a shard


def test_round_trip(tmp_path: Path) -> None:
    store = FeatureStore(write(tmp_path, list(range(7))))
    assert store.ids == [item.id for item in ITEMS]
    assert store.attributes["seed"] == 1
    for index, item in enumerate(ITEMS):
        assert store.grid(item.id) == item.grid
        for block in BLOCKS:
            wanted, found = features(index)[block], store.features(block, item.id)
            np.testing.assert_array_equal(found.tokens, wanted.tokens.astype(np.float16))
            np.testing.assert_array_equal(found.modulation, wanted.modulation)


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_the_plan_counts_the_files_and_bytes_of_a_store(tmp_path: Path, encoding: Encoding) -> None:
    writer = StoreWriter(tmp_path, ITEMS, BLOCKS, {}, encoding)
    for index in range(7):
        writer.write(index, features(index))
    store = FeatureStore(writer.finish())
    tokens, config = [item.tokens for item in ITEMS], {**FLUX1_DEV, "attention_head_dim": 5, "num_attention_heads": 1}
    plan = estimate(config, tokens, BLOCKS, 1, 1, encoding, 4)
    assert plan.files == len(list(store.path.glob("block*/*/c/*/0/0")))
    kept = [store.stored(block, item.id) for block in BLOCKS for item in ITEMS]
    assert plan.feature_bytes == sum(array.nbytes for arrays in kept for array in arrays.values())


def test_any_zarr_library_can_read_it(tmp_path: Path) -> None:
    group = zarr.open_group(write(tmp_path, list(range(7))), mode="r")
    array = group["block28/tokens"]
    assert isinstance(array, zarr.Array)
    assert array.shape == (7, 12, 5)
    assert array.chunks == (1, 12, 5)
    assert array.shards == (3, 12, 5)
    for index, item in enumerate(ITEMS):
        wanted = features(index)[28].tokens.astype(np.float16)
        np.testing.assert_array_equal(array[index, : item.tokens], wanted)
        assert not np.asarray(array[index, item.tokens :]).any()


def test_int8_has_a_scale_for_each_channel(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, ITEMS, [28], {}, "int8")
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((item.tokens, 5)).astype(np.float32) for item in ITEMS]
    for index, x in enumerate(tokens):
        x[:, 2] = 1000 + 100 * x[:, 2]  # a massive channel
        x[:, 3] = 7  # a channel that does not vary
        writer.write(index, {28: Features(x, np.zeros((3, 5)))})
    store = FeatureStore(writer.finish())
    for item, x in zip(ITEMS, tokens, strict=True):
        found = store.features(28, item.id).tokens
        assert (np.abs(found - x) <= np.ptp(x, 0) / 254 * 0.501 + 1e-4).all()
    array = zarr.open_group(store.path, mode="r")["block28/tokens"]
    assert isinstance(array, zarr.Array)
    assert array.dtype == np.int8


def test_a_kill_between_an_item_and_its_shard_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "_pack_if_whole", lambda self, shard: None)
        writer = StoreWriter(tmp_path / "cut", ITEMS, BLOCKS, {"seed": 1})
        for index in range(7):
            writer.write(index, features(index))
    again = StoreWriter(tmp_path / "cut", ITEMS, BLOCKS, {"seed": 1})
    assert again.missing() == []
    assert contents(again.finish()) == contents(write(tmp_path / "whole", list(range(7))))


def test_bytes_do_not_depend_on_the_order(tmp_path: Path) -> None:
    assert contents(write(tmp_path / "a", [0, 1, 2, 3, 4, 5, 6])) == contents(
        write(tmp_path / "b", [6, 2, 0, 5, 1, 4, 3])
    )


def test_a_killed_writer_loses_no_finished_item(tmp_path: Path) -> None:
    script = """
import sys, time
from tests import test_store as t
t.pipeline.writer.SHARD_BYTES = 3 * 12 * 5 * 2
writer = t.StoreWriter(t.Path(sys.argv[1]), t.ITEMS, t.BLOCKS, {"seed": 1})
for index in writer.missing():
    writer.write(index, t.features(index))
    print(index, flush=True)
    time.sleep(0.2)
"""
    root = Path(__file__).parents[1]
    written: list[int] = []
    for stop_after in (1, 3, 2):
        command = [sys.executable, "-c", script, str(tmp_path / "killed")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            assert process.stdout
            for _ in range(stop_after):
                written.append(int(process.stdout.readline()))
            os.kill(process.pid, signal.SIGKILL)
            written += [int(line) for line in process.stdout]
    writer = StoreWriter(tmp_path / "killed", ITEMS, BLOCKS, {"seed": 1})
    assert len(written) == len(set(written)), "a finished item was computed again"
    assert not set(writer.missing()) & set(written)
    for index in writer.missing():
        writer.write(index, features(index))
    assert contents(writer.finish()) == contents(write(tmp_path / "whole", list(range(7))))


def test_a_damaged_loose_file_is_written_again(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, ITEMS, BLOCKS, {})
    writer.write(4, features(4))
    (loose,) = (tmp_path / "loose").iterdir()
    loose.write_bytes(loose.read_bytes()[:-1])
    assert 4 in StoreWriter(tmp_path, ITEMS, BLOCKS, {}).missing()


def test_every_flipped_byte_in_a_shard_is_told_with_its_item(tmp_path: Path) -> None:
    path = write(tmp_path, list(range(7)))
    whole = {item.id: FeatureStore(path).features(28, item.id).tokens for item in ITEMS}
    shard = path / "block28/tokens/c/1/0/0"
    data = shard.read_bytes()
    for position in range(0, len(data), 7):
        shard.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        told = 0
        for item in ITEMS:
            try:
                found = FeatureStore(path).features(28, item.id).tokens
            except UserError as error:
                assert repr(item.id) in str(error)
                told += 1
            else:
                np.testing.assert_array_equal(found, whole[item.id])
        assert told >= 1, f"byte {position}"


def test_every_flipped_bit_besides_the_shards_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, list(range(7)))
    for file in layout_files(path):
        data = file.read_bytes()
        for position in range(0, len(data), 29):
            file.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
            with pytest.raises(UserError):
                FeatureStore(path)
        file.write_bytes(data)
    assert len(FeatureStore(path)) == 7


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_or_missing_shard_is_told(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path, list(range(7)))
    shard = path / "block24/tokens/c/0/0/0"
    if keep:
        shard.write_bytes(shard.read_bytes()[:keep])
    else:
        shard.unlink()
    with pytest.raises(UserError, match=r"'cat/1', block 24, is damaged"):
        FeatureStore(path).features(24, "cat/1")


def test_items_damaged_in_different_arrays_are_repaired(tmp_path: Path) -> None:
    path = write(tmp_path / "made", list(range(7)))
    shards = [path / "block24/tokens/c/0/0/0", path / "block24/modulation/c/0/0/0"]
    (tmp_path / "cache").mkdir()
    links = [tmp_path / "cache" / str(number) for number in range(len(shards))]
    for shard, link in zip(shards, links, strict=True):
        link.hardlink_to(shard)
    whole, fresh = contents(path), FeatureStore(write(tmp_path / "again", list(range(7))))
    for shard, position in zip(shards, (0.1, 0.75), strict=True):  # the first of three items, and the last
        data = bytearray(shard.read_bytes())
        data[int(position * len(data))] ^= 1
        shard.write_bytes(data)
    (shards[0].parent / ".0.repaired").write_bytes(b"left by a kill")
    damage = {item: arrays for item, arrays in FeatureStore(path).damage() if arrays}
    assert damage == {"cat/0": [(24, "tokens")], "cat/2": [(24, "modulation")]}
    assert rebuild_shards(FeatureStore(path), damage, fresh, [tmp_path / "cache"]) == 2
    assert contents(path) == whole
    assert [link.samefile(shard) for shard, link in zip(shards, links, strict=True)] == [True, True]


@pytest.mark.parametrize("value", [1e6, np.inf, np.nan])
def test_a_value_that_does_not_fit_names_its_item(tmp_path: Path, value: float) -> None:
    broken = features(2)
    broken[28].tokens[0, 0] = value
    writer = StoreWriter(tmp_path, ITEMS, BLOCKS, {})
    with pytest.raises(UserError, match=r"item 'cat/2', block 28"):
        writer.write(2, broken)
    assert 2 in StoreWriter(tmp_path, ITEMS, BLOCKS, {}).missing()


def test_foreign_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a feature store"):
        FeatureStore(tmp_path / "nothing")
    zarr.open_group(tmp_path / "foreign", mode="w")
    with pytest.raises(UserError, match="not a feature store"):
        FeatureStore(tmp_path / "foreign")
    path = write(tmp_path / "old", list(range(7)))
    zarr.open_group(path, mode="r+").attrs["version"] = 99
    with pytest.raises(UserError, match="format version 99"):
        FeatureStore(path)


def test_unknown_items_and_blocks_are_named(tmp_path: Path) -> None:
    store = FeatureStore(write(tmp_path, list(range(7))))
    with pytest.raises(UserError, match="no features of 'dog/1'"):
        store.features(28, "dog/1")
    with pytest.raises(UserError, match=r"holds blocks \[24, 28\], not 3"):
        store.features(3, "cat/1")
