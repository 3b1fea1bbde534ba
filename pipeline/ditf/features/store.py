"""The feature store: a Zarr v3 group, written and read by zarr-python.

    <store>/
        ids, keys             [item]                       string: image id; hash of the image's pixels and prompt
        grid, size            [item, 2]                    int32: rows and columns of tokens of the first block;
                                                           width and height of the image in pixels
        prompt                [item]                       int32: the item's row in `prompts`
        prompts               [prompt]                     string; once per image size where the AdaLN depends on it
        block28/tokens        [item, token, C]             float16, float32 or int8, row-major, padded with zeros
        block28/modulation    [prompt, condition, 3, C]    float32: AdaLN shift, scale and gate, if the model has AdaLN
        block28/quantization  [item, 2, C]                 float32, with int8 only: offset and scale of each channel
        block28/statistics    [3, C]                       float64: magnitude, mean and std of each channel

    Attributes: format, version, extraction_config, source, encoding, multiple, norm, conditions,
    modulation_depends_on_size, checksum, and one value per block in blocks, strides and channels.

Each item is one chunk with a CRC-32C. The attribute `checksum` covers all metadata and tables.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.features.descriptors import ChannelStatistics
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.files import fingerprint
from ditf.types import BOTH, STORE_VERSION, Norm

if TYPE_CHECKING:
    import zarr

FORMAT = "ditf-features"

# Arrays that a store reads when it is opened, and the file name of their only chunk.
TABLES = {"ids": "c.0", "keys": "c.0", "grid": "c.0.0", "size": "c.0.0", "prompt": "c.0", "prompts": "c.0"}
# Arrays of a block that contain the tokens of each item.
PER_ITEM = ("tokens", "quantization")


class FeatureStore(FeatureReader):
    """A store of extracted features that is open for reading. `store[id]` reads the features of the first block.

    Args:
        path: The folder of the store.

    Attributes:
        ids: Ids of the items, in order.
        keys: A hash of the content and the prompt of each item.
        sizes: Width and height of each image in pixels, [items, 2].
        blocks: Blocks in the store.
        prompts: Distinct prompts, once per image size where the AdaLN depends on the size.
        attributes: Attributes of the Zarr group.

    Raises:
        UserError: `path` is not a store, has another format version, or has damaged metadata or tables.
    """

    def __init__(self, path: Path | str) -> None:
        import zarr  # here, because `ditf results` imports this module, but opens no store

        folder = Path(path)
        try:
            group = zarr.open_group(folder, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
            if attributes.get("format") != FORMAT:
                raise UserError(f"{path}: a Zarr group, but not a feature store")
            if attributes["version"] != STORE_VERSION:
                raise UserError(
                    f"{path}: written in format version {attributes['version']}, but {STORE_VERSION} is read "
                    f"here. Extract again with `dvc repro -f features@{folder.name}`."
                )
            names = array_names(attributes)
            if attributes["checksum"] != metadata_checksum(folder, names):
                raise ValueError("its metadata or tables disagree with their checksum")
            self._arrays = {name: cast("zarr.Array[Any]", group[name]) for name in names}
            ids, keys, self.prompts = ([str(s) for s in self._single_chunk(n)] for n in ("ids", "keys", "prompts"))
            self._grid, sizes, self._prompt = (self._single_chunk(name) for name in ("grid", "size", "prompt"))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not a feature store, or a damaged one ({_reason(error)}). Repair it with `ditf repair`, or "
                "extract again with `dvc repro`."
            ) from None
        super().__init__(folder, ids, keys, sizes, attributes)
        self._statistics: dict[int, ChannelStatistics] = {}
        self._modulation = functools.lru_cache(maxsize=1024)(self._read_modulation)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the content. Equal images, models and settings give equal hashes."""
        return fingerprint([self.attributes, self.ids, self.keys])

    @property
    def items_per_file(self) -> int:
        """Number of items whose tokens share a file."""
        return int((self._arrays[f"block{self.blocks[0]}/tokens"].shards or (1,))[0])

    @property
    def prompt_of(self) -> list[int]:
        """Row of each item in `prompts`."""
        return [int(row) for row in self._prompt]

    @functools.cached_property
    def by_key(self) -> dict[str, str]:
        """Id of each item by its key."""
        return dict(zip(self.keys, self.ids, strict=True))

    @property
    def norm(self) -> Norm:
        """The normalization that the model's AdaLN modulates."""
        return Norm(**(self.attributes["norm"] or {}))

    def grids(self, block: int) -> NDArray[np.int32]:
        """Return the rows and columns of tokens of each item, [items, 2]."""
        grids: NDArray[np.int32] = self._grid * self.stride(self.blocks[0]) // self.stride(block)
        return grids

    def features(self, block: int, item: str) -> ImageFeatures:
        """Read the features of an item, with tokens in float16 or float32. Raises `UserError` if they are damaged."""
        tokens, conditions = self.tokens(block, item), self.conditions(block, item)
        return ImageFeatures(
            tokens,
            conditions.pop(BOTH, None),
            self.grid(item, block),
            self.size(item),
            self.massive(block),
            conditions,
            self.norm,
        )

    def tokens(self, block: int, item: str) -> NDArray[np.floating]:
        """Read only the tokens of an item, [n, C]."""
        self._position(block)
        stored = self.stored(block, item)
        if "quantization" not in stored:
            return stored["tokens"]
        offset, scale = stored["quantization"]
        tokens: NDArray[np.floating] = stored["tokens"] * scale + offset
        return tokens

    def stored(self, block: int, item: str) -> dict[str, NDArray[Any]]:
        """Read the encoded arrays of one block of an item by name."""
        index = self.index(item)
        names = [name for name in PER_ITEM if f"block{block}/{name}" in self._arrays]
        arrays = {name: self._chunk(f"block{block}/{name}", index, repr(item)) for name in names}
        return arrays | {"tokens": arrays["tokens"][: self.grids(block)[index].prod()]}

    def modulation(self, block: int, item: str) -> NDArray[np.float32] | None:
        """Read AdaLN shift, scale and gate of an item, [conditions, 3, C]. Return None for a model without AdaLN."""
        if f"block{block}/modulation" not in self._arrays:
            return None
        return self._modulation(block, int(self._prompt[self.index(item)]))

    def conditions(self, block: int, item: str) -> dict[str, NDArray[np.float32]]:
        """Read AdaLN shift, scale and gate of an item, [3, C], by condition.

        The conditions are "both" and, for models that embed timestep and text separately, "t" and "c".
        """
        modulation = self.modulation(block, item)
        return {} if modulation is None else dict(zip(self.attributes["conditions"], modulation, strict=True))

    def _read_modulation(self, block: int, prompt: int) -> NDArray[np.float32]:
        """Read the modulation of a prompt, [conditions, 3, C]."""
        return self._chunk(f"block{block}/modulation", prompt, f"of prompt {self.prompts[prompt]!r}")

    def statistics(self, block: int) -> ChannelStatistics:
        """Read the statistics of each channel over all tokens of the store."""
        self._position(block)
        if block not in self._statistics:
            try:
                self._statistics[block] = ChannelStatistics(*self._single_chunk(f"block{block}/statistics"))
            except (ValueError, OSError) as error:
                raise UserError(f"{self.path}: damaged ({_reason(error)}). Run `ditf repair`.") from None
        return self._statistics[block]

    def massive(self, block: int) -> list[int]:
        """Return the massive channels of a block, from the statistics of the store."""
        return self.statistics(block).massive

    def chunk_path(self, array: str, index: int) -> Path:
        """Return the file that contains an entry of an array.

        Args:
            array: Name of the array, such as "block28/tokens".
            index: Index of the entry.
        """
        return chunk_path(self._arrays[array], index)

    def damage(self) -> Iterator[tuple[str, Path]]:
        """Read every chunk of every block.

        Yields:
            A description of each damaged chunk, and its file.
        """
        for name, array in self._arrays.items():
            _, _, kind = name.rpartition("/")
            if kind == "statistics":
                yield from self._try(name, None, "statistics")
            elif "/" in name:
                labels = self.prompts if kind == "modulation" else self.ids
                for index in range(array.shape[0]):
                    yield from self._try(name, index, labels[index])

    def _try(self, name: str, index: int | None, label: str) -> Iterator[tuple[str, Path]]:
        """Read one entry of an array, or all of it. Yields the description and the file if it is damaged."""
        try:
            self._single_chunk(name) if index is None else self._chunk(name, index, label)
        except (UserError, ValueError, OSError):
            yield f"item {label!r} is damaged: {name}", chunk_path(self._arrays[name], index or 0)

    def _chunk(self, name: str, index: int, label: str) -> NDArray[Any]:
        """Read one entry of an array. Raises `UserError` with the label if it is damaged."""
        array = self._arrays[name]
        try:
            if not chunk_path(array, index).is_file():  # zarr reads a missing chunk as zeros
                raise ValueError("its file is missing")
            return np.asarray(array[index])
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"{self.path}: item {label}, {name}, is damaged ({_reason(error)}). Run `ditf repair` to "
                "compute it again."
            ) from None

    def _single_chunk(self, name: str) -> NDArray[Any]:
        """Read an array that has one chunk. Raises `ValueError` if the chunk is missing."""
        if not chunk_path(self._arrays[name], 0).is_file():
            raise ValueError(f"{name}: its file is missing")
        return np.asarray(self._arrays[name][:])


def chunk_path(array: "zarr.Array[Any]", index: int) -> Path:
    """Return the file of the chunk or shard that contains `array[index]`."""
    first = array.shards or array.chunks
    key = array.metadata.encode_chunk_key((index // first[0], *(0,) * (array.ndim - 1)))
    store = array.store_path
    return Path(store.store.root) / store.path / key  # type: ignore[attr-defined]


def array_names(attributes: Mapping[str, Any]) -> list[str]:
    """Return the names of a store's arrays, tables first, from its attributes."""
    kinds = ["tokens", *(["quantization"] if attributes["encoding"] == "int8" else [])]
    kinds += [*(["modulation"] if attributes["conditions"] else []), "statistics"]
    return [*TABLES, *(f"block{block}/{kind}" for block in attributes["blocks"] for kind in kinds)]


def metadata_files(store: Path, names: Iterable[str]) -> list[Path]:
    """Return the files of a store that contain metadata or tables.

    Args:
        store: Folder of the store.
        names: Names of its arrays.

    Returns:
        The metadata of the group, then all other files.
    """
    nodes = sorted({*names, *(name.partition("/")[0] for name in names)})
    tables = [store / name / key for name, key in TABLES.items()]
    return [store / "zarr.json", *(store / name / "zarr.json" for name in nodes), *tables]


def metadata_checksum(store: Path, names: Sequence[str]) -> str:
    """Return the checksum of all metadata and tables, except the attribute `checksum` itself.

    Args:
        store: Folder of the store.
        names: Names of its arrays.
    """
    first, *others = metadata_files(store, names)
    group = json.loads(first.read_bytes())
    group["attributes"].pop("checksum", None)
    checksum = hashlib.sha256(json.dumps(group, sort_keys=True).encode())
    for path in others:
        checksum.update(path.relative_to(store).as_posix().encode() + b"\n" + path.read_bytes())
    return checksum.hexdigest()[:32]


def _reason(error: Exception) -> str:
    """Return the message of an error in one short line."""
    return " ".join(str(error).split())[:200]
