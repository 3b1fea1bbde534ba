"""Writing a feature store, item by item, so that an interruption loses nothing that was finished."""

import contextlib
import itertools
import os
import shutil
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.store import (
    ARRAYS,
    BLOSC_HEADER,
    FORMAT,
    VERSION,
    Bytes,
    Encoding,
    Features,
    Item,
    array_of,
    encode,
    is_chunk,
    layout_checksum,
    pack_chunk,
    pack_shard,
    shard_path,
)

SHARD_BYTES = 64 * 2**20  # with more, more loose files are in memory at once; with fewer, a store is of more files
PART_BYTES = 2**18  # read at once
PACKERS = 2  # threads that write shards


@dataclass(frozen=True)
class Loose:
    """Finished items, each in a file of its own, so that any process may write them.

    folder: that they lie in. rows: of a chunk of tokens. blocks, encoding: of the store.
    """

    folder: Path
    rows: int
    blocks: tuple[int, ...]
    encoding: Encoding

    @property
    def names(self) -> list[str]:
        """The arrays of which an item has a chunk, in the order of its file."""
        return [f"block{block}/{name}" for block in self.blocks for name in ARRAYS[self.encoding]]

    def write(self, index: int, item: str, features: Mapping[int, Features]) -> None:
        """Write the item at `index` of the store, with the id `item`. A kill after this returns does not undo it."""
        self.write_encoded(index, {b: encode(features[b], self.encoding, item, b) for b in self.blocks})

    def write_encoded(self, index: int, arrays: Mapping[int, Mapping[str, NDArray[Any]]]) -> None:
        """The same, from what `encode` made of each block."""
        chunks = [
            pack_chunk(array, self.rows if name == "tokens" else len(array))
            for block in self.blocks
            for name, array in arrays[block].items()
        ]
        header = self._header.pack(*(sum(map(len, parts)) for parts in chunks))
        # Not forced to the disk: where a crash of the machine tears it, its chunks' checksums tell.
        _write(self.folder / str(index), [header, *itertools.chain.from_iterable(chunks)], durably=False)

    def chunk(self, index: int, name: str) -> Iterator[bytes]:
        """An item's chunk of the array `name`, in parts small enough that their memory is used again and again."""
        number = self.names.index(name)
        with (self.folder / str(index)).open("rb") as file:
            lengths = self._header.unpack(file.read(self._header.size))
            if self._header.size + sum(lengths) != os.fstat(file.fileno()).st_size:
                raise ValueError(f"{file.name}: cut off")
            file.seek(sum(lengths[:number]), os.SEEK_CUR)
            for start in range(0, lengths[number], PART_BYTES):
                yield file.read(min(PART_BYTES, lengths[number] - start))

    def holds(self, index: int) -> bool:
        """Whether the item at `index` is there as it was written."""
        with contextlib.suppress(struct.error, ValueError, FileNotFoundError):
            return all(is_chunk(memoryview(b"".join(self.chunk(index, name)))) for name in self.names)
        return False

    def channels(self, index: int) -> int:
        """The number of channels of the item at `index`."""
        modulation = b"".join(self.chunk(index, f"block{self.blocks[0]}/modulation"))
        return int(BLOSC_HEADER.unpack_from(modulation)[4]) // (3 * 4)

    @property
    def _header(self) -> struct.Struct:
        """The lengths of the chunks, with which a file begins."""
        return struct.Struct(f"<{len(self.names)}Q")


class StoreWriter:
    """Builds a store in `folder`, item by item in any order; what was written survives a kill.

    A finished item lies loose in its own file until all of its shard do; then the shard is written in the
    background. `folder` holds `store.zarr`, `loose/` (finished items) and `done/` (a mark for each shard on
    disk); a writer opened on it again continues.
    In the end only the store is left, and the file `complete`.

    Args:
        folder: to work in.
        items: of the store, in its order.
        blocks: captured for each.
        attributes: what made the features, kept in the store.
        encoding: "float16", or "int8" for half the bytes.
    """

    def __init__(
        self,
        folder: Path,
        items: Sequence[Item],
        blocks: Sequence[int],
        attributes: Mapping[str, Any],
        encoding: Encoding = "float16",
    ) -> None:
        self.folder, self.items, self.blocks, self.encoding = folder, list(items), list(blocks), encoding
        self._attributes = attributes
        self._store, self._done = folder / "store.zarr", folder / "done"
        self.loose = Loose(folder / "loose", _rows(self.items), tuple(blocks), encoding)
        self.complete = is_complete(folder)
        if self.complete:
            return
        for path in (self.loose.folder, self._done):
            path.mkdir(parents=True, exist_ok=True)
        self._shards = {int(mark.name) for mark in self._done.iterdir() if mark.name.isdecimal()}
        self._finished: set[int] = set()
        for path in self.loose.folder.iterdir():
            if path.name.isdecimal() and self.loose.holds(int(path.name)):
                self._finished.add(int(path.name))
            else:
                path.unlink()
        remove_partials(self._store)
        self._packers, self._packing = ThreadPoolExecutor(PACKERS), deque[Future[None]]()
        self._size: int | None = None
        if (self._done / "laid-out").exists():
            shards = array_of(zarr.open_group(self._store, mode="r"), f"block{self.blocks[0]}/tokens").shards
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
        """Write the item at `index`: the features of every block. A kill after this returns does not undo it."""
        self.loose.write(index, self.items[index].id, features)
        self.accept(index)

    def accept(self, index: int) -> None:
        """Take in the item at `index`, which lies in `loose`."""
        if self._size is None:
            self._shards.clear()
            channels = self.loose.channels(index)
            self._size = lay_out(self._store, self.items, self.blocks, self._attributes, self.encoding, channels)
            write_durably(self._done / "laid-out", b"")
        self._finished.add(index)
        self._pack_if_whole(self._shard_of(index))

    def finish(self) -> Path:
        """Close the store and return its path. All items must have been written."""
        assert not self.missing(), "finish() before all items were written"
        if not self.complete:
            for index in sorted(self._finished):  # a kill may have come between an item and its shard
                self.accept(index)
            while self._packing:
                self._packing.popleft().result()
            write_durably(self.folder / "complete", b"")
            self.complete = True
        for leftover in (self.loose.folder, self._done):
            shutil.rmtree(leftover, ignore_errors=True)
        return self._store

    def _shard_of(self, index: int) -> int:
        assert self._size, "no item is written"
        return index // self._size

    def _pack_if_whole(self, shard: int) -> None:
        """Begin to write a shard, if all its items are there and it is not begun."""
        assert self._size
        members = range(shard * self._size, min((shard + 1) * self._size, len(self.items)))
        if shard in self._shards or not self._finished.issuperset(members):
            return
        self._shards.add(shard)
        if len(self._packing) == PACKERS:
            self._packing.popleft().result()
        self._packing.append(self._packers.submit(self._pack, shard, members))

    def _pack(self, shard: int, members: range) -> None:
        """Write a shard from its items' loose files, and remove these."""
        assert self._size
        for name in self.loose.names:
            path = shard_path(self._store / name, shard)
            path.parent.mkdir(parents=True, exist_ok=True)
            chunks = (self.loose.chunk(index, name) for index in members)
            _write(path, pack_shard(chunks, self._size), durably=True)
        write_durably(self._done / str(shard), b"")
        for index in members:
            (self.loose.folder / str(index)).unlink()


def lay_out(
    store: Path,
    items: Sequence[Item],
    blocks: Sequence[int],
    attributes: Mapping[str, Any],
    encoding: Encoding,
    channels: int,
) -> int:
    """Make a store that lacks only its shards; what was there is removed. Returns the number of items a shard."""
    count, kind = len(items), np.dtype(encoding)
    size = min(count, max(1, SHARD_BYTES // (_rows(items) * channels * kind.itemsize)))
    shutil.rmtree(store, ignore_errors=True)
    own: dict[str, Any] = {"format": FORMAT, "version": VERSION, "blocks": list(blocks), "encoding": encoding}
    group = zarr.open_group(store, mode="w", attributes={**own, **attributes})

    def create(name: str, shape: tuple[int, ...], kind: str, chunks: tuple[int, ...], **more: Any) -> Any:
        return group.create_array(name, shape=shape, dtype=kind, chunks=chunks, compressors=_checked(), **more)

    create("ids", (count,), "str", (count,))[:] = np.array([item.id for item in items], object)
    create("keys", (count,), "str", (count,))[:] = np.array([item.key for item in items], object)
    create("grid", (count, 2), "int32", (count, 2))[:] = np.array([item.grid for item in items], np.int32)
    rows = {"tokens": _rows(items), "modulation": 3, "quantization": 2}
    for block in blocks:
        for name in ARRAYS[encoding]:
            chunk = (1, rows[name], channels)
            dtype = str(kind) if name == "tokens" else "float32"
            create(f"block{block}/{name}", (count, *chunk[1:]), dtype, chunk, shards=(size, *chunk[1:]))
    group.attrs["checksum"] = layout_checksum(store)
    return size


def is_complete(folder: Path) -> bool:
    """Whether the folder of a `StoreWriter` holds a finished store."""
    return (folder / "complete").exists()


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    _write(path, [data], durably=True)


def remove_partials(folder: Path) -> None:
    """Remove the files in whose writing a kill came."""
    for partial in folder.rglob(".*"):
        partial.unlink()


def _write(path: Path, parts: Iterable[Bytes], durably: bool) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durably:
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rows(items: Sequence[Item]) -> int:
    """Of a chunk of tokens: those of the greatest item."""
    return max(item.tokens for item in items)


def _checked() -> tuple[Any, ...]:
    """The codecs of a chunk; `pipeline.store.pack_chunk` writes the same."""
    return BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"), Crc32cCodec()
