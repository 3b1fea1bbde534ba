"""Fuse two stores into one. Fused features are computed when they are read.

Method: Zhang et al., "A Tale of Two Features" (arXiv 2305.15347). Each half is reduced by PCA, resampled to one grid,
normalized per token, weighted and concatenated.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ditf.errors import UserError
from ditf.features.bilinear import AxisInterpolation
from ditf.features.descriptors import unit
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.features.settings import FUSED_BLOCK, FusionHalf, FusionSettings
from ditf.features.store import FeatureStore
from ditf.files import fingerprint, write_atomically

Vectors = NDArray[np.float32]
TokenMap = tuple[Vectors, tuple[int, int]]  # tokens of a block, [n, C], and their rows and columns

RECORD, BASIS = "fusion.json", "basis.safetensors"
SAMPLE_TOKENS = 50_000  # tokens from which the axes over a data set are computed


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of tokens.

    Attributes:
        mean: Mean of the tokens, [C].
        vectors: Orthonormal axes, [axes, C].
    """

    mean: Vectors
    vectors: Vectors

    @classmethod
    def of(cls, tokens: NDArray[np.floating], count: int) -> "PrincipalAxes":
        """Compute principal axes by an exact PCA.

        Args:
            tokens: Tokens [n, C].
            count: Number of leading axes.

        Raises:
            UserError: There are fewer tokens or channels than axes.
        """
        x = np.asarray(tokens, np.float64)
        if count > min(x.shape):
            raise UserError(
                f"pca: {count} axes of {x.shape[0]} tokens with {x.shape[1]} channels. Use at most {min(x.shape)}."
            )
        mean = x.mean(0)
        x = x - mean
        if x.shape[0] >= x.shape[1]:
            vectors = np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :count].T
        else:
            vectors = np.linalg.svd(x, full_matrices=False)[2][:count]
        return cls(mean.astype(np.float32), np.ascontiguousarray(vectors, np.float32))

    def __call__(self, tokens: Vectors) -> Vectors:
        """Project tokens [n, C] onto the axes. Returns [n, axes]."""
        return np.asarray((tokens - self.mean) @ self.vectors.T, np.float32)


def resample(tokens: Vectors, grid: tuple[int, int], new_grid: tuple[int, int]) -> Vectors:
    """Resample a token map bilinearly; see `ditf.features.bilinear`.

    Args:
        tokens: Token map in row-major order, [h * w, C].
        grid: Rows and columns of the map.
        new_grid: Rows and columns of the result.

    Returns:
        Token map [rows * columns, C].
    """
    if grid == new_grid:
        return tokens
    rows, columns = AxisInterpolation.of(grid[0], new_grid[0]), AxisInterpolation.of(grid[1], new_grid[1])
    maps = tokens.reshape(*grid, -1)
    a = rows.weight.astype(np.float32)[:, None, None]
    resampled_rows = maps[rows.lower] * (1 - a) + maps[rows.upper] * a
    b = columns.weight.astype(np.float32)[:, None]
    resampled = resampled_rows[:, columns.lower] * (1 - b) + resampled_rows[:, columns.upper] * b
    return np.asarray(resampled.reshape(-1, maps.shape[-1]), np.float32)


def fuse(
    first: Sequence[TokenMap],
    second: Sequence[TokenMap],
    weight: float,
    grid: tuple[int, int],
    chained: tuple[bool, bool] = (False, False),
) -> Vectors:
    """Fuse the tokens of one image.

    Args:
        first: Reduced tokens and their grid for each block of the first half, from coarse to fine.
        second: Reduced tokens and their grid for each block of the second half, from coarse to fine.
        weight: Weight of the second half.
        grid: Rows and columns of the result.
        chained: For each half, whether its coarsest block is resampled to the grid of the next block first.

    Returns:
        Tokens [rows * columns, C].
    """
    halves = []
    for half, chain in zip((first, second), chained, strict=True):
        maps = [*half]
        if chain and len(maps) > 1:
            (tokens, coarse_grid), (_, next_grid) = maps[:2]
            maps[0] = (resample(tokens, coarse_grid, next_grid), next_grid)
        resampled = [resample(tokens, block_grid, grid) for tokens, block_grid in maps]
        halves.append(unit(np.concatenate(resampled, 1)))
    return np.concatenate([np.float32(1 - weight) * halves[0], np.float32(weight) * halves[1]], 1)


class FusedStore(FeatureReader):
    """A fusion that is open for reading. It has one block and only the descriptor "original".

    Args:
        path: Folder of the fusion, beside the folders of its two stores.

    Raises:
        UserError: `path` is not a fusion, or the features of its two stores changed.
    """

    def __init__(self, path: Path | str) -> None:
        folder = Path(path)
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            checksum = record.pop("checksum")
            if checksum != fingerprint(record):
                raise ValueError("it disagrees with its checksum")
            self.fusion = FusionSettings.model_validate(record["fusion"])
            basis = safetensors.numpy.load((folder / BASIS).read_bytes())
            if record["basis"] != _digest(basis):
                raise ValueError(f"{BASIS} disagrees with its checksum")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"{path}: not a fusion, or a damaged one ({error}). Run `dvc repro fusion@{folder.name}`."
            ) from None
        self.halves = (self.fusion.first, self.fusion.second)
        self.stores = [FeatureStore(folder.parent / half.features) for half in self.halves]
        if record["stores"] != [store.digest for store in self.stores]:
            raise UserError(
                f"{path}: belongs to an earlier version of the features. Run `dvc repro fusion@{folder.name}`."
            )
        second = self.stores[1]
        self._axes = {
            name: PrincipalAxes(basis[f"{name}.mean"], basis[f"{name}.vectors"])
            for name in (key.removesuffix(".mean") for key in basis if key.endswith(".mean"))
        }
        self._finest = self.fusion.second.blocks[-1]
        width = sum(map(_width, self.halves, self.stores))
        attributes = {
            "extraction_config": record,
            "blocks": [FUSED_BLOCK],
            "strides": [second.stride(self._finest)],
            "channels": [width],
            "norm": None,
        }
        super().__init__(folder, second.ids, second.keys, second.sizes, attributes)
        self.pairwise = self.fusion.over == "pair"

    @functools.cached_property
    def digest(self) -> str:
        return fingerprint([self.attributes["extraction_config"], self.ids, self.keys])

    def grids(self, block: int) -> NDArray[np.int32]:
        self._position(block)
        return self.stores[1].grids(self._finest)

    def massive(self, block: int) -> list[int]:
        return []

    def features(self, block: int, item: str) -> ImageFeatures:
        self._position(block)
        if self.pairwise:
            raise UserError(
                f"{self.path}: its PCA is over pairs, so that only correspondence reads it. Use `over: dataset`."
            )
        return self._fuse(item, [_reduced(number, self._maps(number, item), self._axes) for number in (0, 1)])

    def pair(self, block: int, source: str, target: str) -> tuple[ImageFeatures, ImageFeatures]:
        """Read the features of the two images of a pair. Axes over pairs are computed from both images.

        Args:
            block: The only block of the fusion.
            source: Id of the source image.
            target: Id of the target image.
        """
        if not self.pairwise:
            return self.features(block, source), self.features(block, target)
        maps = {item: [self._maps(number, item) for number in (0, 1)] for item in (source, target)}
        axes = {}
        for number, half in enumerate(self.halves):
            for position, count in enumerate(half.pca or ()):
                tokens = np.concatenate([maps[item][number][position][0] for item in (source, target)])
                axes[f"{number}.{position}"] = PrincipalAxes.of(tokens, count)
        images = [self._fuse(item, [_reduced(number, maps[item][number], axes) for number in (0, 1)]) for item in maps]
        return images[0], images[-1]

    def _fuse(self, item: str, halves: Sequence[Sequence[TokenMap]]) -> ImageFeatures:
        """Fuse the reduced tokens of both halves of an image."""
        grid = self.grid(item)
        # sd-dino reduces tokens and resamples through the next grid. GeoAware-SC does neither.
        chained = (self.halves[0].pca is not None, self.halves[1].pca is not None)
        tokens = fuse(halves[0], halves[1], self.fusion.weight, grid, chained)
        return ImageFeatures(tokens, None, grid, self.size(item))

    def _maps(self, number: int, item: str) -> list[TokenMap]:
        """Return the descriptors of an image at each block of half 0 or 1."""
        return descriptor_maps(self.stores[number], self.halves[number], item)


def descriptor_maps(store: FeatureStore, half: FusionHalf, item: str) -> list[TokenMap]:
    """Return the descriptors of an image at each block of a half, [n, C], and their grids.

    Args:
        store: Store of the half.
        half: Settings of the half.
        item: Id of the image.
    """
    maps = []
    for block in half.blocks:
        features = store.features(block, item)
        channels = None if half.channels == "auto" else half.channels
        maps.append((features.descriptors(half.descriptor, channels), features.grid))
    return maps


def write_fusion(path: Path, fusion: FusionSettings, stores: Sequence[FeatureStore]) -> None:
    """Write a fusion of two stores: its settings, and the principal axes over the data set.

    Args:
        path: Folder to write.
        fusion: Settings of the fusion.
        stores: Stores of the two halves.

    Raises:
        UserError: The stores have different images, or do not have the blocks and descriptors of the fusion.
    """
    first, second = stores
    if (first.ids, [*map(tuple, first.sizes)]) != (second.ids, [*map(tuple, second.sizes)]):
        raise UserError(f"{first.path} and {second.path}: not of the same images")
    halves = (fusion.first, fusion.second)
    for name, half, store in zip(("first", "second"), halves, stores, strict=True):
        if half.pca and len(half.pca) != len(half.blocks):
            raise UserError(f"fusions: {name}.pca: {len(half.pca)} numbers for {len(half.blocks)} blocks")
        descriptor_maps(store, half, store.ids[0])
    basis: dict[str, NDArray[np.float32]] = {}
    if fusion.over == "dataset":
        rng = np.random.default_rng(fusion.seed)
        items = [first.ids[n] for n in rng.permutation(len(first))]
        for number, (half, store) in enumerate(zip(halves, stores, strict=True)):
            for position, count in enumerate(half.pca or ()):
                axes = PrincipalAxes.of(_sample(store, half, position, items, rng), count)
                basis |= {f"{number}.{position}.mean": axes.mean, f"{number}.{position}.vectors": axes.vectors}
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / BASIS, safetensors.numpy.save(basis))
    record = {"fusion": fusion.model_dump(), "stores": [store.digest for store in stores], "basis": _digest(basis)}
    record["checksum"] = fingerprint(record)
    write_atomically(path / RECORD, json.dumps(record, indent=1).encode() + b"\n")


def open_store(path: Path | str) -> FeatureReader:
    """Open the feature store or the fusion in a folder. Raises `UserError` if there is none."""
    return FusedStore(path) if (Path(path) / RECORD).exists() else FeatureStore(path)


def _width(half: FusionHalf, store: FeatureStore) -> int:
    """Return the number of channels that a half contributes to fused tokens."""
    return sum(half.pca) if half.pca else sum(store.channels(block) for block in half.blocks)


def _sample(
    store: FeatureStore, half: FusionHalf, position: int, items: Sequence[str], rng: np.random.Generator
) -> Vectors:
    """Return a sample of the tokens of a block, about `SAMPLE_TOKENS` from all images.

    Args:
        store: Store of the half.
        half: Settings of the half.
        position: Position of the block in the half.
        items: Ids of the images, in random order.
        rng: Generator that chooses the tokens of each image.
    """
    share = SAMPLE_TOKENS / max(1, store.grids(half.blocks[position]).prod(1, dtype=np.int64).sum())
    sampled: list[Vectors] = []
    for item in items:
        tokens, _ = descriptor_maps(store, half, item)[position]
        kept = rng.permutation(len(tokens))[: max(1, round(len(tokens) * share))] if share < 1 else slice(None)
        sampled.append(tokens[kept])
    return np.concatenate(sampled)


def _reduced(number: int, maps: Sequence[TokenMap], axes: Mapping[str, PrincipalAxes]) -> list[TokenMap]:
    """Project the tokens of each block onto its principal axes. Blocks without axes stay as they are.

    Args:
        number: Number of the half, 0 or 1.
        maps: Tokens of each block of the half.
        axes: Principal axes by "NUMBER.POSITION", the half and the position of the block in it.
    """
    reduced = []
    for position, (tokens, grid) in enumerate(maps):
        project = axes.get(f"{number}.{position}")
        reduced.append((project(tokens) if project else tokens, grid))
    return reduced


def _digest(basis: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays and their names."""
    return hashlib.sha256(b"".join(name.encode() + basis[name].tobytes() for name in sorted(basis))).hexdigest()
