"""Read cached features: the interface that stores and fusions share."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditf.errors import NotFoundError, UserError
from ditf.features.bilinear import corners_of
from ditf.features.descriptors import describe
from ditf.types import BOTH, LAYER_NORM, Descriptor, Norm, condition_of


@dataclass(frozen=True, repr=False)
class ImageFeatures:
    """Features of one image at one block.

    Attributes:
        tokens: Features of the tokens, row by row, float16 or float32 [n, C].
        modulation: AdaLN shift, scale and gate, [3, C]; None for a model without AdaLN.
        grid: Rows and columns of tokens.
        size: Width and height of the image in pixels.
        massive: Massive channels.
        conditions: Modulation by the timestep alone ("t") and by the text alone ("c"), each [3, C]. Models that do not
            embed the two separately have none.
        norm: The normalization that the AdaLN modulates.
        pixels: The image, uint8 [height, width, 3], if an `Extractor` computed the features; otherwise None.
    """

    tokens: NDArray[np.floating]
    modulation: NDArray[np.floating] | None
    grid: tuple[int, int]
    size: tuple[int, int]
    massive: Sequence[int] = field(default=())
    conditions: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    norm: Norm = LAYER_NORM
    pixels: NDArray[np.uint8] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        rows, columns = self.grid
        adaln = "without AdaLN" if self.modulation is None else f"AdaLN, massive channels {list(self.massive)}"
        return (
            f"ImageFeatures({rows}x{columns} tokens of {self.tokens.shape[1]} channels, {self.tokens.dtype}, {adaln})"
        )

    def descriptors(
        self, descriptor: Descriptor | None = None, channels: Iterable[int] | None = None, rows: Any = slice(None)
    ) -> NDArray[np.float32]:
        """Compute descriptors; see `ditf.features.descriptors.describe`.

        Args:
            descriptor: Descriptor to compute. By default, "adaln+discard", or "original" for models without AdaLN.
            channels: Channels to discard. By default, the massive channels.
            rows: Indices of tokens. By default, all tokens.

        Returns:
            Descriptors [n, C].

        Raises:
            UserError: The model has no modulation for this descriptor.
        """
        descriptor = descriptor or ("original" if self.modulation is None else "adaln+discard")
        modulation, condition = self.modulation, condition_of(descriptor)
        if condition != BOTH and modulation is not None:
            modulation = self.conditions.get(condition)
            if modulation is None:
                raise UserError(
                    f"descriptor: {descriptor!r}: the AdaLN of this model does not embed timestep and text apart. Use "
                    "'adaln'."
                )
        channels = self.massive if channels is None else channels
        return describe(self.tokens[rows], modulation, descriptor, channels, self.norm)

    def descriptors_at(
        self, points: NDArray[Any], descriptor: Descriptor | None = None, channels: Iterable[int] | None = None
    ) -> NDArray[np.float32]:
        """Compute the descriptors at points by bilinear interpolation. Only the tokens around the points are described.

        Args:
            points: Points (x, y) inside the image in pixels, [k, 2].
            descriptor: Descriptor, as for `descriptors`.
            channels: Channels to discard, as for `descriptors`.

        Returns:
            Descriptors [k, C].
        """
        corners, weights = corners_of(self.grid, self.size, points)
        needed, place = np.unique(corners, return_inverse=True)
        tokens = self.descriptors(descriptor, channels, needed)
        return np.einsum("kfc,kf->kc", tokens[place.reshape(corners.shape)], weights.astype(np.float32))

    def map(self, descriptor: Descriptor | None = None, channels: Iterable[int] | None = None) -> NDArray[np.float32]:
        """Compute descriptors as a map.

        Args:
            descriptor: Descriptor, as for `descriptors`.
            channels: Channels to discard, as for `descriptors`.

        Returns:
            Descriptors [C, rows, columns].
        """
        return self.descriptors(descriptor, channels).T.reshape(-1, *self.grid)


class FeatureReader(ABC):
    """Interface of cached features that are open for reading. `reader[id]` reads the features of the first block.

    Args:
        path: The folder.
        ids: Ids of the items, in order.
        keys: A hash of the content and the prompt of each item.
        sizes: Width and height of each image in pixels, [items, 2].
        attributes: Settings of the extraction, and `blocks`, `strides` and `channels` with one value per block.

    Attributes:
        pairwise: Whether the features of an image depend on the other image of its pair.
    """

    pairwise = False

    def __init__(
        self, path: Path, ids: list[str], keys: list[str], sizes: NDArray[np.int32], attributes: dict[str, Any]
    ) -> None:
        self.path, self.ids, self.keys, self.sizes, self.attributes = path, ids, keys, sizes, attributes
        self.blocks: list[int] = list(attributes["blocks"])
        self._index = {name: index for index, name in enumerate(ids)}

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of the content. Equal images, models and settings give equal hashes."""

    @abstractmethod
    def features(self, block: int, item: str) -> ImageFeatures:
        """Read the features of an item. Raises `UserError` if they are damaged."""

    @abstractmethod
    def grids(self, block: int) -> NDArray[np.int32]:
        """Return the rows and columns of tokens of each item, [items, 2]."""

    @abstractmethod
    def massive(self, block: int) -> list[int]:
        """Return the massive channels of a block."""

    def pair(self, block: int, source: str, target: str) -> tuple[ImageFeatures, ImageFeatures]:
        """Read the features of the two images of a pair.

        Args:
            block: Block of the features.
            source: Id of the source image.
            target: Id of the target image.
        """
        return self.features(block, source), self.features(block, target)

    def grid(self, item: str, block: int | None = None) -> tuple[int, int]:
        """Return the rows and columns of tokens of an item.

        Args:
            item: Id of the item.
            block: Block of the tokens. By default, the first one.
        """
        h, w = self.grids(self.blocks[0] if block is None else block)[self.index(item)]
        return int(h), int(w)

    def size(self, item: str) -> tuple[int, int]:
        """Return the width and height of an item's image in pixels."""
        width, height = self.sizes[self.index(item)]
        return int(width), int(height)

    def stride(self, block: int) -> int:
        """Return the pixels that a token of a block covers along each side."""
        return int(self.attributes["strides"][self._position(block)])

    def channels(self, block: int) -> int:
        """Return the number of channels of a block's tokens."""
        return int(self.attributes["channels"][self._position(block)])

    def index(self, item: str) -> int:
        """Return the position of an item. Raises `UserError` if there is no such item."""
        try:
            return self._index[item]
        except KeyError:
            raise NotFoundError(f"{self.path}: no features of {item!r}. It holds {len(self)} others.") from None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item: object) -> bool:
        return item in self._index

    def __getitem__(self, item: str) -> ImageFeatures:
        return self.features(self.blocks[0], item)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} items, blocks {self.blocks})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the files itself, and only once.
        return _reopen, (type(self), str(self.path.resolve()), self.digest)

    def _position(self, block: int) -> int:
        """Return the position of a block. Raises `UserError` if there is no such block."""
        if block not in self.blocks:
            raise UserError(f"{self.path}: holds blocks {self.blocks}, not {block}. Add it to `blocks` and extract it.")
        return self.blocks.index(block)


@functools.lru_cache(maxsize=4)
def _reopen(kind: Any, path: str, digest: str) -> FeatureReader:
    """Open a store in another process."""
    store: FeatureReader = kind(path)
    if store.digest != digest:
        raise UserError(f"{path}: changed while it was read. Run again.")
    return store
