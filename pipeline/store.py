"""The feature store: one Zarr v3 group a data set, one item a chunk, read by any Zarr library.

    <store>/                       attributes: format, version, and what made the features
        ids, keys        [item]            string: the image's id; hash of what its features depend on
        grid             [item, 2]         int32: tokens down and across
        block28/tokens   [item, token, C]  float16: row-major, rows past the item's own tokens are 0
        block28/modulation  [item, 3, C]   float32: AdaLN shift, scale, gate

Chunks are LZ4 blocks (which only folds the zeros away) with a CRC-32C, many to a shard.
"""

import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import safetensors.numpy
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.descriptors import Descriptor, describe
from pipeline.errors import UserError

FORMAT = "ditf-features"
VERSION = 1
SHARD_BYTES = 128 * 2**20
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Item:
    """An image in a store. key: hash of all that its features depend on; grid: tokens (down, across)."""

    id: str
    key: str
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Features:
    """What one block gives for one item: tokens [n, C] and modulation (shift, scale, gate) [3, C]."""

    tokens: NDArray[np.floating]
    modulation: NDArray[np.floating]


class FeatureStore:
    """A finished store, opened for reading. Raises `UserError` where `path` holds none."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            group = zarr.open_group(self.path, mode="r")
            self.attributes: dict[str, Any] = dict(group.attrs)
            if self.attributes.get("format") != FORMAT:
                raise UserError(f"{path}: a Zarr group, but not a feature store")
            if self.attributes["version"] != VERSION:
                raise UserError(
                    f"{path}: written in format version {self.attributes['version']}, this program reads "
                    f"{VERSION}; extract again with `dvc repro`"
                )
            self.blocks: list[int] = list(self.attributes["blocks"])
            self.ids: list[str] = [str(name) for name in _array(group, "ids")[:]]  # type: ignore[union-attr]
            self.keys: list[str] = [str(key) for key in _array(group, "keys")[:]]  # type: ignore[union-attr]
            self.grids: NDArray[np.int32] = np.asarray(_array(group, "grid")[:])
            self._arrays = {
                (block, name): _array(group, f"block{block}/{name}")
                for block in self.blocks
                for name in ("tokens", "modulation")
            }
        except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not a feature store ({error}); make it with `dvc repro`") from None
        self._index = {name: index for index, name in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, item: str) -> int:
        """The position of the item with id `item`."""
        try:
            return self._index[item]
        except KeyError:
            raise UserError(f"{self.path}: no features of {item!r}; run `dvc repro` to extract them") from None

    def grid(self, item: str) -> tuple[int, int]:
        """Tokens (down, across) of an item."""
        h, w = self.grids[self.index(item)]
        return int(h), int(w)

    def features(self, block: int, item: str) -> Features:
        """The cached features of one item: tokens [n, C], float16, and modulation [3, C], float32."""
        if block not in self.blocks:
            raise UserError(
                f"{self.path}: holds blocks {self.blocks}, not {block}; add it to `blocks` and run `dvc repro`"
            )
        index = self.index(item)
        h, w = self.grids[index]
        try:
            tokens, modulation = (
                _read_chunk(self.path / f"block{block}/{name}", self._arrays[block, name], index)
                for name in ("tokens", "modulation")
            )
        except (ValueError, RuntimeError, OverflowError, OSError) as error:
            raise self._damaged(item, block, str(error)) from None
        return Features(tokens[: h * w], modulation)

    def descriptors(
        self, block: int, item: str, descriptor: Descriptor, channels: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        """Descriptors [n, C] of one item; see `pipeline.descriptors.describe`."""
        features = self.features(block, item)
        return describe(features.tokens, features.modulation, descriptor, channels)

    def _damaged(self, item: str, block: int, reason: str) -> UserError:
        return UserError(
            f"{self.path}: item {item!r}, block {block}, is damaged ({' '.join(reason.split())}); "
            "remove the store and run `dvc checkout`, or `dvc repro` to extract again"
        )


class StoreWriter:
    """Builds a store in `folder`, item by item in any order; what was written survives a kill.

    A finished item lies loose in its own file until its shard is whole. `folder` holds `store.zarr`,
    `loose/` (finished items) and `done/` (a mark for each shard on disk); a writer opened on it again continues.
    In the end only the store is left, and the file `complete`.
    """

    def __init__(
        self,
        folder: Path,
        items: Sequence[Item],
        blocks: Sequence[int],
        attributes: Mapping[str, Any],
    ) -> None:
        self.folder, self.items, self.blocks = folder, list(items), list(blocks)
        self.attributes = {
            "format": FORMAT,
            "version": VERSION,
            "blocks": self.blocks,
            **attributes,
        }
        self._store, self._loose, self._done = (folder / n for n in ("store.zarr", "loose", "done"))
        self.complete = is_complete(folder)
        if self.complete:
            return
        for path in (self._loose, self._done):
            path.mkdir(parents=True, exist_ok=True)
        self._shards = {int(mark.name) for mark in self._done.iterdir()}
        self._finished = {int(f.name.split(".")[0]): f for f in self._loose.iterdir() if _is_whole(f)}
        self._size: int | None = None
        if self._shards:
            shards = _array(self._group(), f"block{self.blocks[0]}/tokens").shards
            self._size = shards[0] if shards else None

    def missing(self) -> list[int]:
        """Positions of the items that are not written yet, in order."""
        if self.complete:
            return []
        return [
            i
            for i in range(len(self.items))
            if i not in self._finished and not (self._size and i // self._size in self._shards)
        ]

    def write(self, index: int, features: Mapping[int, Features]) -> None:
        """Write the item at `index`: the features of every block. Durable when this returns."""
        arrays: dict[str, NDArray[Any]] = {}
        for block in self.blocks:
            arrays[f"{block}.tokens"] = _to_float16(features[block].tokens, self.items[index].id, block)
            arrays[f"{block}.modulation"] = np.ascontiguousarray(features[block].modulation, np.float32)
        data = safetensors.numpy.save(arrays)
        path = self._loose / f"{index}.{google_crc32c.value(data):08x}"
        write_durably(path, data)
        self._finished[index] = path
        if self._size is None:
            self._size = self._create(arrays)
        shard = index // self._size
        members = range(shard * self._size, min((shard + 1) * self._size, len(self.items)))
        if all(i in self._finished for i in members):
            self._write_shard(shard, members)

    def finish(self) -> Path:
        """Close the store and return its path. All items must have been written."""
        assert not self.missing(), "finish() before all items were written"
        if not self.complete:
            write_durably(self.folder / "complete", b"")
            self.complete = True
        for leftover in (self._loose, self._done):
            shutil.rmtree(leftover, ignore_errors=True)
        return self._store

    def _group(self) -> zarr.Group:
        return zarr.open_group(self._store, mode="r+")

    def _create(self, sample: Mapping[str, NDArray[Any]]) -> int:
        """Lay out the group, from the shapes of a first item; returns the number of items a shard."""
        count, most = len(self.items), max(item.tokens for item in self.items)
        channels = sample[f"{self.blocks[0]}.tokens"].shape[1]
        size = min(count, max(1, SHARD_BYTES // (most * channels * 2)))
        shutil.rmtree(self._store, ignore_errors=True)
        group = zarr.open_group(self._store, mode="w", attributes=self.attributes)
        for name, values in (
            ("ids", [i.id for i in self.items]),
            ("keys", [i.key for i in self.items]),
        ):
            array = group.create_array(
                name,
                shape=(count,),
                chunks=(count,),
                dtype="str",
                compressors=_checked(),
                fill_value="",
            )
            array[:] = np.array(values, dtype=object)
        grid = group.create_array(
            "grid",
            shape=(count, 2),
            chunks=(count, 2),
            dtype="int32",
            compressors=_checked(),
            fill_value=0,
        )
        grid[:] = np.array([item.grid for item in self.items], np.int32)
        for block in self.blocks:
            # NaN, so that a lost shard is not mistaken for features of zero.
            for name, rows, dtype in (("tokens", most, "float16"), ("modulation", 3, "float32")):
                group.create_array(
                    f"block{block}/{name}",
                    shape=(count, rows, channels),
                    chunks=(1, rows, channels),
                    shards=(size, rows, channels),
                    dtype=dtype,
                    compressors=_checked(),
                    fill_value=np.nan,
                )
        return size

    def _write_shard(self, shard: int, members: range) -> None:
        loose = [safetensors.numpy.load(self._finished[i].read_bytes()) for i in members]
        group = self._group()
        for block in self.blocks:
            for name in ("tokens", "modulation"):
                array = _array(group, f"block{block}/{name}")
                rows = np.zeros((len(members), *array.shape[1:]), array.dtype)
                for row, item in zip(rows, loose, strict=True):
                    values = item[f"{block}.{name}"]
                    row[: len(values)] = values
                array[members.start : members.stop] = rows
                _sync(self._store / f"block{block}/{name}/c/{shard}/0/0")
        write_durably(self._done / str(shard), b"")
        self._shards.add(shard)
        for i in members:
            self._finished.pop(i).unlink()


def is_complete(folder: Path) -> bool:
    """Whether the folder of a `StoreWriter` holds a finished store."""
    return (folder / "complete").exists()


def _read_chunk(folder: Path, array: zarr.Array[Any], index: int) -> NDArray[Any]:
    """The chunk of one item, straight from its shard: what zarr does, without its copies.

    Zarr's sharding codec ends a shard with an index of (offset, length) for each chunk, and its CRC-32C; a
    chunk as `_checked` writes it is Blosc's bytes and their CRC-32C.
    """
    assert array.shards
    shard, place = divmod(index, array.shards[0])
    with (folder / f"c/{shard}/0/0").open("rb") as file:
        size = 16 * array.shards[0] + 4
        file.seek(-min(size, file.seek(0, os.SEEK_END)), os.SEEK_END)
        footer = _verified(file.read(size - 4), file.read(4), "the shard's index")
        offset, length = struct.unpack_from("<QQ", footer, 16 * place)
        file.seek(offset)
        chunk = _verified(file.read(length - 4), file.read(4), "its chunk")
    result = np.empty(array.shape[1:], array.dtype)
    blosc.decompress(chunk, result)
    return result


def _verified(data: bytes, checksum: bytes, what: str) -> bytes:
    """`data`, whose CRC-32C is `checksum`. Raises `ValueError` where it is not."""
    if google_crc32c.value(data) != int.from_bytes(checksum, "little") or len(checksum) < 4:
        raise ValueError(f"{what} disagrees with its checksum")
    return data


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(loose: Path) -> bool:
    """Whether a loose file is what was written: its name ends in its CRC-32C. Others are removed."""
    if not loose.name.startswith(".") and loose.suffix == f".{google_crc32c.value(loose.read_bytes()):08x}":
        return True
    loose.unlink()
    return False


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(f"{name} is not an array")
    return array


def _checked() -> Iterator[Any]:
    return iter((BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"), Crc32cCodec()))


def _to_float16(tokens: NDArray[np.floating], item: str, block: int) -> NDArray[np.float16]:
    """Convert to float16, which keeps more of the mantissa than bfloat16; what does not fit is an error."""
    greatest = float(np.abs(tokens).max(initial=0.0))
    if not greatest <= FLOAT16_MAX:
        raise UserError(
            f"item {item!r}, block {block}: a feature is {greatest:g}, float16 ends at {FLOAT16_MAX:g}; "
            "the model's arithmetic went wrong there: try `model.dtype: float32`"
        )
    return np.ascontiguousarray(tokens, np.float16)
