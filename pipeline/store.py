"""The feature store: one Zarr v3 group a data set, one item a chunk, read by any Zarr library.

    <store>/                       attributes: format, version, what made the features, and a checksum of the layout
        ids, keys        [item]            string: the image's id; hash of what its features depend on
        grid             [item, 2]         int32: tokens down and across
        block28/tokens   [item, token, C]  float16 or int8: row-major, rows past the item's own tokens are 0
        block28/modulation  [item, 3, C]   float32: AdaLN shift, scale, gate
        block28/quantization  [item, 2, C] float32, with int8 alone: each channel's offset and scale in this item

Chunks are LZ4 blocks (which only folds the zeros away) with a CRC-32C, many to a shard. int8 has a scale for
each channel of each item, so that massive channels cost the others nothing.
"""

import contextlib
import functools
import hashlib
import json
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from fastcrc import crc32
from numcodecs import Blosc, blosc
from numpy.typing import NDArray

from pipeline.descriptors import Descriptor, describe
from pipeline.errors import UserError

FORMAT = "ditf-features"
VERSION = 2
FLOAT16_MAX = 65504.0

Encoding = Literal["float16", "int8"]
Bytes = bytes | memoryview
COMPRESSOR = Blosc("lz4", clevel=1, shuffle=Blosc.NOSHUFFLE)
# Of the format of Blosc 1: version, version of LZ4, flags, bytes a number, bytes, bytes a block, bytes with the header.
BLOSC_HEADER = struct.Struct("<4B3I")
BLOSC_AS_IS, BLOSC_LZ4 = 0x2, 0x20

TABLES = ("ids", "keys", "grid")
ARRAYS: dict[str, tuple[str, ...]] = {
    "float16": ("tokens", "modulation"),
    "int8": ("tokens", "modulation", "quantization"),
}


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
                    f"{VERSION}; extract again: `dvc repro -sf features@{self.path.name}`, then `dvc repro`"
                )
            if self.attributes["checksum"] != layout_checksum(self.path):
                raise ValueError("metadata or tables disagree with their checksum")
            self.blocks: list[int] = list(self.attributes["blocks"])
            self.ids: list[str] = [str(name) for name in array_of(group, "ids")[:]]  # type: ignore[union-attr]
            self.keys: list[str] = [str(key) for key in array_of(group, "keys")[:]]  # type: ignore[union-attr]
            self.grids: NDArray[np.int32] = np.asarray(array_of(group, "grid")[:])
            self._arrays = {
                (block, name): _Array.of(self.path / f"block{block}/{name}", array_of(group, f"block{block}/{name}"))
                for block in self.blocks
                for name in ARRAYS[self.attributes["encoding"]]
            }
        except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: not a feature store, or a damaged one ({reason}); make it with `dvc repro`, or mend it "
                "with `ditf repair`"
            ) from None
        self._index = {name: index for index, name in enumerate(self.ids)}

    @functools.cached_property
    def digest(self) -> str:
        """A name for what the store holds: equal where the same images went through the same model and settings."""
        facts = [self.attributes, self.ids, self.keys]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (str(self.path.resolve()), self.digest)  # another process opens it, once

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
        """The cached features of an item: tokens [n, C], float16 (float32 of int8), modulation [3, C]; read-only."""
        if block not in self.blocks:
            raise UserError(
                f"{self.path}: holds blocks {self.blocks}, not {block}; add it to `blocks` and run `dvc repro`"
            )
        arrays = self.stored(block, item)
        tokens = arrays["tokens"]
        if "quantization" in arrays:
            offset, scale = arrays["quantization"]
            tokens = tokens * scale + offset
        return Features(tokens, arrays["modulation"])

    def stored(self, block: int, item: str) -> dict[str, NDArray[Any]]:
        """The arrays in which one block of an item is kept, as `encode` made them; read-only."""
        return {name: self.array(block, name, item) for name in ARRAYS[self.attributes["encoding"]]}

    def array(self, block: int, name: str, item: str) -> NDArray[Any]:
        """One of the arrays that `stored` gives. Raises `UserError` where it is damaged."""
        index = self.index(item)
        try:
            found = self._arrays[block, name].read(index)
        except (ValueError, RuntimeError, OverflowError, OSError) as error:
            raise UserError(
                f"{self.path}: item {item!r}, block {block}, is damaged ({' '.join(str(error).split())}); "
                "run `ditf repair` to compute it again"
            ) from None
        return found[: self.grids[index].prod()] if name == "tokens" else found

    def layout(self, block: int, name: str) -> tuple[int, int]:
        """Of an array: the items in a shard, and the rows of a chunk."""
        array = self._arrays[block, name]
        return array.items, array.shape[0]

    def damage(self) -> Iterator[tuple[str, list[tuple[int, str]]]]:
        """Reads every chunk and gives, for each item in order, its damaged arrays: (block, name)."""
        for item in self.ids:
            found = []
            for block, name in self._arrays:
                try:
                    self.array(block, name, item)
                except UserError:
                    found.append((block, name))
            yield item, found

    def descriptors(
        self, block: int, item: str, descriptor: Descriptor, channels: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        """Descriptors [n, C] of one item; see `pipeline.descriptors.describe`."""
        features = self.features(block, item)
        return describe(features.tokens, features.modulation, descriptor, channels)


@dataclass(frozen=True)
class _Array:
    """Where and how an array is kept. items: of a shard; shape, dtype: of an item's chunk."""

    folder: Path
    items: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, path: Path, array: "zarr.Array[Any]") -> "_Array":
        if array.shards is None:
            raise KeyError(f"{array.path} has no shards")
        return cls(path, array.shards[0], array.shape[1:], array.dtype)

    def read(self, index: int) -> NDArray[Any]:
        """The chunk of one item, straight from its shard, read-only: what zarr does, without its copies.

        A chunk is what `pack_chunk` makes. Blosc keeps what does not shrink as it is, behind a header of 16
        bytes whose third byte says so: that needs no copy at all.
        """
        shard, place = divmod(index, self.items)
        path = shard_path(self.folder, shard)
        data, places = mapped(path, self.items, path.stat().st_mtime_ns)
        offset, length = places[place]
        if offset + length > len(data):
            raise ValueError("the shard is cut off")
        chunk = _verified(data[offset : offset + length], "its chunk")
        if chunk[2] & BLOSC_AS_IS:
            return chunk[BLOSC_HEADER.size :].view(self.dtype).reshape(self.shape)
        result = np.empty(self.shape, self.dtype)
        blosc.decompress(chunk, result)
        result.flags.writeable = False
        return result


@functools.lru_cache(maxsize=4)
def _opened(path: str, digest: str) -> FeatureStore:
    store = FeatureStore(path)
    if store.digest != digest:
        raise UserError(f"{path}: changed while it was read; run again")
    return store


def encode(features: Features, encoding: Encoding, item: str, block: int) -> dict[str, NDArray[Any]]:
    """The arrays in which a store keeps one block of one item. Raises `UserError` for what does not fit."""
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(features.tokens, np.float16)
    # The bits of infinities and NaN are the greatest, of either sign: so no array is made to find them.
    if half.size and (half.view(np.int16).max() >= 0x7C00 or half.view(np.uint16).max() >= 0xFC00):
        greatest = float(np.abs(features.tokens).max())
        raise UserError(
            f"item {item!r}, block {block}: a feature is {greatest:g}, float16 ends at {FLOAT16_MAX:g}; "
            "the model's arithmetic went wrong there: try `model.dtype: float32`"
        )
    modulation = np.ascontiguousarray(features.modulation, np.float32)
    if encoding == "float16":
        return {"tokens": half, "modulation": modulation}
    tokens = np.asarray(features.tokens, np.float32)
    low, high = tokens.min(0), tokens.max(0)
    offset, scale = (low + high) / 2, np.maximum((high - low) / 254, np.finfo(np.float32).tiny)
    quantized = np.round((tokens - offset) / scale).clip(-127, 127).astype(np.int8)
    return {"tokens": quantized, "modulation": modulation, "quantization": np.stack([offset, scale])}


def pack_chunk(array: NDArray[Any], rows: int) -> list[Bytes]:
    """One item's chunk: `array`, [n, C], with zeros up to `rows` rows, as Blosc, and their CRC-32C; in parts.

    Zeros are compressed away. Where there are none, the numbers are random to LZ4: the chunk is Blosc's header
    for bytes kept as they are, and the array itself, of which no copy is made.
    """
    array = np.ascontiguousarray(array)
    parts: list[Bytes]
    if len(array) == rows:
        flags, size = BLOSC_LZ4 | BLOSC_AS_IS, array.nbytes
        header = BLOSC_HEADER.pack(2, 1, flags, array.itemsize, size, size, size + BLOSC_HEADER.size)
        parts = [header, array.reshape(-1).view(np.uint8).data]
    else:
        whole = np.zeros((rows, *array.shape[1:]), array.dtype)
        whole[: len(array)] = array
        parts = [bytes(COMPRESSOR.encode(whole))]
    return [*parts, struct.pack("<I", functools.reduce(lambda crc, part: crc32.iscsi(part, crc), parts, 0))]


def is_chunk(data: memoryview) -> bool:
    """Whether `data` is what `pack_chunk` made: it ends in the CRC-32C of the rest."""
    return len(data) > 4 and crc32.iscsi(data[:-4]) == int.from_bytes(data[-4:], "little")


def pack_shard(chunks: Iterable[Iterable[Bytes]], count: int) -> Iterator[Bytes]:
    """A shard of `count` chunks, of which the last ones may be lacking, in parts, as the chunks are: these, then
    their index and its CRC-32C."""
    index, end = b"", 0
    for chunk in chunks:
        start = end
        for part in chunk:
            yield part
            end += len(part)
        index += struct.pack("<QQ", start, end - start)
    index = index.ljust(16 * count, b"\xff")
    yield index + struct.pack("<I", crc32.iscsi(index))


def layout_files(store: Path) -> list[Path]:
    """The files of a store that are no shards: the group's metadata, then those of the arrays, and the tables."""
    patterns = ("zarr.json", "*/zarr.json", "*/*/zarr.json", *(f"{table}/c/**/*" for table in TABLES))
    found = [path for pattern in patterns for path in sorted(store.glob(pattern))]
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def layout_checksum(store: Path) -> str:
    """Of all that `layout_files` hold, but for the attribute `checksum`, which keeps it."""
    group = json.loads((store / "zarr.json").read_bytes())
    group["attributes"].pop("checksum", None)
    found = hashlib.sha256(json.dumps(group, sort_keys=True).encode())
    for path in layout_files(store)[1:]:
        found.update(path.read_bytes())
    return found.hexdigest()[:32]


@functools.lru_cache(maxsize=1024)  # making a path takes longer than all else of reading a small chunk
def shard_path(array: Path, shard: int) -> Path:
    """The file of a shard of the array in the folder `array`."""
    return array / f"c/{shard}/0/0"


@functools.lru_cache(maxsize=4)
def mapped(path: Path, items: int, modified: int) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """A shard's bytes, and each chunk's offset and length, which with their CRC-32C are its end, as Zarr's sharding
    codec wants it; the last few are kept, so that their pages are not mapped anew for each item."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it: pages of 2 MiB take far fewer faults
        pages.madvise(mmap.MADV_HUGEPAGE)
    data = np.frombuffer(pages, np.uint8)
    index = _verified(data[-16 * items - 4 :], "the shard's index")
    return data, list(struct.iter_unpack("<QQ", index.data))


def _verified(data: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """`data` without the CRC-32C at its end. Raises `ValueError` where that does not agree."""
    if not is_chunk(data.data):
        raise ValueError(f"{what} disagrees with its checksum")
    return data[:-4]


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(f"{name} is not an array")
    return array
