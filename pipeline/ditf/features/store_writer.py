"""Write feature stores task by task, so that an interruption loses no finished work.

A task is one item, or the items of one shard if the store would otherwise have too many files. zarr writes each file
atomically, so that a file that exists is complete.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from tqdm import tqdm
from zarr.codecs import BloscCodec, Crc32cCodec

from ditf.errors import UserError
from ditf.features.descriptors import ChannelStatistics
from ditf.features.store import FORMAT, FeatureStore, array_names, chunk_path, metadata_checksum
from ditf.files import remove_partials, reporting_write_errors
from ditf.types import BOTH, LAYER_NORM, STORE_VERSION, Encoding

MOST_FILES = 100_000  # files in a store, before items share files
MOST_SHARED = 64  # items that share a file
FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class StoreItem:
    """An image in a store.

    Attributes:
        id: Id in the catalog.
        key: Hash of the pixels and the prompt.
        grid: Rows and columns of tokens of the first block.
        size: Width and height of the image in pixels.
        prompt: Prompt of the image.
    """

    id: str
    key: str
    grid: tuple[int, int]
    size: tuple[int, int]
    prompt: str

    @property
    def tokens(self) -> int:
        """Number of tokens of the first block."""
        return self.grid[0] * self.grid[1]


# Features of an item at one block: tokens, float32 [n, C], and modulation, [conditions, 3, C] or None. With one
# condition, the modulation may be [3, C].
BlockFeatures = tuple[NDArray[np.float32], NDArray[np.float32] | None]


def encode(tokens: NDArray[np.float32], encoding: Encoding, item: str, block: int) -> dict[str, NDArray[Any]]:
    """Encode the tokens of one item.

    Args:
        tokens: Tokens of a block, float32 [n, C].
        encoding: Type of the stored tokens.
        item: Id of the item, for errors.
        block: The block, for errors.

    Returns:
        Arrays of the store by name.

    Raises:
        UserError: A value is not finite, or does not fit the encoding.
    """
    largest = float(np.abs(tokens).max(initial=0))
    if not math.isfinite(largest):
        raise UserError(
            f"item {item!r}, block {block}: a feature is not a finite number, since the model overflowed. "
            "Try `dtype: float32`."
        )
    if encoding == "float16" and largest > FLOAT16_MAX:
        raise UserError(
            f"item {item!r}, block {block}: a feature is {largest:g}, but float16 ends at {FLOAT16_MAX:g}. Use "
            "`encoding: float32`, or `int8`."
        )
    if encoding != "int8":
        return {"tokens": tokens.astype(encoding)}
    low, high = tokens.min(0), tokens.max(0)
    offset, scale = low / 2 + high / 2, np.maximum((high / 254 - low / 254), np.finfo(np.float32).tiny)
    quantized = np.round((tokens - offset) / scale).clip(-127, 127).astype(np.int8)
    return {"tokens": quantized, "quantization": np.stack([offset, scale])}


def lay_out(path: Path, items: Sequence[StoreItem], attributes: Mapping[str, Any], shard: int | None = None) -> None:
    """Write the metadata and tables of a store, without features.

    Args:
        path: The store, which does not exist yet.
        items: The items, in the order of the store.
        attributes: Attributes of the store; see `ditf.features.store`.
        shard: Number of items that share a file. By default, a number that keeps the number of files small.
    """
    blocks, encoding = attributes["blocks"], attributes["encoding"]
    count, conditions = len(items), len(attributes["conditions"])
    modulation_depends_on_size = attributes["modulation_depends_on_size"]
    shard = min(shard or min(MOST_SHARED, math.ceil(count * len(blocks) / MOST_FILES)), count)
    conditioned = [(item.prompt, item.grid if modulation_depends_on_size else ()) for item in items]
    rows = sorted(set(conditioned))
    prompts, row = [prompt for prompt, _ in rows], {key: number for number, key in enumerate(rows)}
    group = zarr.open_group(path, mode="w")

    def create(name: str, shape: tuple[int, ...], dtype: str, first: int, **more: Any) -> "zarr.Array[Any]":
        key = {"name": "default", "separator": "."}  # flat folders
        options: dict[str, Any] = {"chunks": (first, *shape[1:]), "compressors": codecs(), "chunk_key_encoding": key}
        return group.create_array(name, shape=shape, dtype=dtype, **options, **more)

    with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk of zeros needs its file, too
        create("ids", (count,), "str", count)[:] = np.array([item.id for item in items], object)
        create("keys", (count,), "str", count)[:] = np.array([item.key for item in items], object)
        create("grid", (count, 2), "int32", count)[:] = np.array([item.grid for item in items], np.int32)
        create("size", (count, 2), "int32", count)[:] = np.array([item.size for item in items], np.int32)
        create("prompt", (count,), "int32", count)[:] = np.array([row[key] for key in conditioned], np.int32)
        create("prompts", (len(prompts),), "str", len(prompts))[:] = np.array(prompts, object)
    strides = attributes["strides"]
    for block, stride, channels in zip(blocks, strides, attributes["channels"], strict=True):
        longest = max(math.prod(side * strides[0] // stride for side in item.grid) for item in items)
        shape = (count, longest, channels)
        shards = {"shards": (shard, longest, channels)} if shard > 1 else {}
        create(f"block{block}/tokens", shape, encoding, 1, **shards)
        if encoding == "int8":
            shards = {"shards": (shard, 2, channels)} if shard > 1 else {}
            create(f"block{block}/quantization", (count, 2, channels), "float32", 1, **shards)
        if conditions:
            create(f"block{block}/modulation", (len(prompts), conditions, 3, channels), "float32", 1)
        create(f"block{block}/statistics", (3, channels), "float64", 3)
    group.attrs.update({"format": FORMAT, "version": STORE_VERSION, **attributes})
    group.attrs["checksum"] = metadata_checksum(path, array_names(attributes))


def write_store(
    path: Path,
    items: Sequence[StoreItem],
    features: Iterable[Mapping[int, BlockFeatures]],
    encoding: Encoding = "float16",
    extraction_config: Mapping[str, Any] | None = None,
    stride: int = 16,
    shard: int | None = None,
) -> FeatureStore:
    """Write a store of features that you computed yourself.

    Args:
        path: The store.
        items: The items, in the order of the store.
        features: Features of each item, by block.
        encoding: Type of the stored tokens.
        extraction_config: Settings behind the features, as information for readers.
        stride: Pixels that a token covers along each side.
        shard: Number of items that share a file. By default, a number that keeps the number of files small.
    """
    remaining = iter(features)
    first = next(remaining)
    blocks = sorted(first)
    _, modulation = first[blocks[0]]
    attributes = {
        "extraction_config": dict(extraction_config or {}),
        "source": "",
        "encoding": encoding,
        "blocks": blocks,
        "strides": [stride] * len(blocks),
        "channels": [first[block][0].shape[1] for block in blocks],
        "multiple": stride,
        "norm": None if modulation is None else asdict(LAYER_NORM),
        "conditions": [] if modulation is None else [BOTH],
        "modulation_depends_on_size": False,
    }
    lay_out(path, items, attributes, shard)
    writer, remaining = StoreWriter(path), itertools.chain([first], remaining)
    for task in writer.tasks():
        encoded, modulations = [], []
        for index, blocks_of_item in zip(task, itertools.islice(remaining, len(task)), strict=True):
            arrays = {block: np.asarray(tokens, np.float32) for block, (tokens, _) in blocks_of_item.items()}
            encoded.append({block: encode(x, encoding, items[index].id, block) for block, x in arrays.items()})
            modulations.append({b: None if m is None else m.reshape(1, 3, -1) for b, (_, m) in blocks_of_item.items()})
        writer.write(task, encoded, modulations)
    writer.finish()
    return FeatureStore(path)


def codecs() -> tuple[Any, ...]:
    """Return the codecs of every chunk: LZ4 compresses the zeros of padding, CRC-32C detects damage."""
    return BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"), Crc32cCodec()


class StoreWriter:
    """An incomplete store that is open for writing. Several processes may write different tasks.

    Args:
        path: The store. Its metadata and tables exist.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._group = path, zarr.open_group(path, mode="r+")
        attributes = dict(self._group.attrs)
        self.blocks: list[int] = list(cast("list[int]", attributes["blocks"]))
        self.encoding = cast(Encoding, attributes["encoding"])
        self._tokens = self._array(f"block{self.blocks[0]}/tokens")
        self._prompt = np.asarray(self._array("prompt")[:])
        self._adaln = bool(attributes["conditions"])

    def tasks(self) -> list[range]:
        """Return the positions of the items of each task, in order."""
        size, count = (self._tokens.shards or (1,))[0], self._tokens.shape[0]
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def unfinished(self) -> list[range]:
        """Return the tasks that must be computed to complete the store.

        Items with the same prompt share a modulation. If only a modulation is missing, one of its items is computed.
        """
        tasks = self.tasks()
        chosen = [task for task in tasks if not self._holds_tokens(task)]
        prompts = {prompt for task in chosen for prompt in self._prompts(task)}
        for task in tasks:
            missing = {prompt for prompt in self._prompts(task) if not self._holds_modulation(prompt)}
            if missing - prompts:
                chosen.append(task)
                prompts |= missing
        return sorted(chosen, key=lambda task: task[0])

    def holds(self, task: range) -> bool:
        """Return whether all files of a task exist."""
        return self._holds_tokens(task) and all(map(self._holds_modulation, self._prompts(task)))

    def _holds_tokens(self, task: range) -> bool:
        """Return whether the files with the tokens of a task exist."""
        names = ["tokens", *(["quantization"] if self.encoding == "int8" else [])]
        arrays = (self._array(f"block{block}/{name}") for block in self.blocks for name in names)
        return all(chunk_path(array, task[0]).is_file() for array in arrays)

    def _holds_modulation(self, prompt: int) -> bool:
        """Return whether the files with the modulation of a prompt exist. Without AdaLN, none are needed."""
        return not self._adaln or all(self._modulation_path(block, prompt).is_file() for block in self.blocks)

    def write(
        self,
        task: range,
        encoded: Sequence[Mapping[int, Mapping[str, NDArray[Any]]]],
        modulations: Sequence[Mapping[int, NDArray[np.float32] | None]],
    ) -> None:
        """Write the items of a task.

        Args:
            task: Positions of the items.
            encoded: Result of `encode` by block, for each item.
            modulations: Modulation [conditions, 3, C] or None by block, for each item.
        """
        with zarr.config.set({"array.write_empty_chunks": True}), reporting_write_errors(self.path):
            for block in self.blocks:
                for prompt, index in self._prompts(task).items():
                    modulation = modulations[index - task[0]][block]
                    if modulation is not None and not self._modulation_path(block, prompt).is_file():
                        self._array(f"block{block}/modulation")[prompt] = modulation
                for name in encoded[0][block]:
                    array = self._array(f"block{block}/{name}")
                    padded = np.zeros((len(task), *array.shape[1:]), array.dtype)
                    for row, item in zip(padded, encoded, strict=True):
                        row[: len(item[block][name])] = item[block][name]
                    array[task[0] : task[-1] + 1] = padded

    def finish(self) -> None:
        """Write the statistics of the channels if they are missing. All tasks must be finished."""
        remove_partials(self.path)
        if not all(chunk_path(self._array(f"block{block}/statistics"), 0).is_file() for block in self.blocks):
            self.write_statistics(FeatureStore(self.path))

    def write_statistics(self, store: FeatureStore) -> None:
        """Compute and write the statistics of the channels.

        Args:
            store: The same store, open for reading, with all features.
        """
        for block in self.blocks:
            items = tqdm(store.ids, f"channels of block {block}", unit="image", delay=2)
            statistics = ChannelStatistics.of(store.tokens(block, item) for item in items)
            values = np.stack([statistics.magnitude, statistics.mean, statistics.std])
            self._array(f"block{block}/statistics")[:] = values

    def _prompts(self, task: range) -> dict[int, int]:
        """Return the prompts of a task, each with the position of its first item."""
        return {int(self._prompt[index]): index for index in reversed(task)}

    def _modulation_path(self, block: int, prompt: int) -> Path:
        """Return the file with the modulation of a prompt."""
        return chunk_path(self._array(f"block{block}/modulation"), prompt)

    def _array(self, name: str) -> "zarr.Array[Any]":
        """Return an array of the store."""
        return cast("zarr.Array[Any]", self._group[name])
