"""Drawings of features: descriptors as colours, and the magnitudes of channels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ditf.data.images import RGB
from ditf.drawing.figures import FONT, WRONG, contact_sheet, label, new_figure, save, shorten
from ditf.features.descriptors import ChannelStatistics
from ditf.features.reader import FeatureReader
from ditf.types import Descriptor

if TYPE_CHECKING:
    from ditf.tasks.base import DescriptorSettings

COLUMNS, MOST_IMAGES = 4, 8
TILE = 320  # pixels


def feature_colours(maps: Sequence[NDArray[np.float32]]) -> list[RGB]:
    """Return descriptor maps as colours: red, green and blue are their first three principal components.

    The sign of a principal component is arbitrary. Each is oriented so that the tokens along the edges of the images
    have a negative mean. Objects are mostly in the middle, so the first component is large for them.

    Args:
        maps: Descriptors of each image, float32 [h, w, C]. The components are common to all images.
    """
    stacked = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    stacked = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)
    centred = stacked - stacked.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    score = centred @ axes[:, ::-1][:, :3]
    score *= np.where(score[np.concatenate([_edge(m.shape[:2]) for m in maps])].mean(0) > 0, -1, 1)
    low, high = np.percentile(score, [1, 99], axis=0)
    colours = np.clip((score - low) / np.maximum(high - low, 1e-12), 0, 1)
    ends = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
    return [
        (255 * colour.reshape(*m.shape[:2], 3)).round().astype(np.uint8)
        for m, colour in zip(maps, np.split(colours, ends), strict=True)
    ]


def _edge(grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which tokens of a grid are in its first or last row or column, [h * w]."""
    edge = np.ones(grid, bool)
    edge[1:-1, 1:-1] = False
    return edge.ravel()


def draw_feature_colours(
    path: Path,
    read: Callable[[str], RGB],
    store: FeatureReader,
    items: Sequence[str],
    settings: "DescriptorSettings",
    descriptor: Descriptor,
) -> None:
    """Draw up to 8 images, each beside its descriptors as colours.

    Args:
        path: Image file to write.
        read: Returns the pixels of an image by its id.
        store: The features.
        items: Ids of the images.
        settings: Block and discarded channels.
        descriptor: The descriptor to draw.
    """
    channels, items = settings.discarded(store), list(dict.fromkeys(items))[:MOST_IMAGES]
    maps = []
    for item in items:
        features = store.features(settings.block, item)
        maps.append(features.descriptors(descriptor, channels).reshape(*features.grid, -1))
    tiles: list[RGB] = []
    for item, colours in zip(items, feature_colours(maps), strict=True):
        tiles += [label(_enlarge(read(item)), shorten(item, 20)), label(_enlarge(colours), f"PCA, {descriptor}")]
    contact_sheet(path, tiles, COLUMNS, TILE)


def _enlarge(image: RGB) -> RGB:
    """Return an image whose longer side is `TILE` pixels, scaled by repeating or leaving out pixels."""
    scale = TILE / max(image.shape[:2])
    rows, columns = (np.arange(max(1, round(n * scale))) * n // max(1, round(n * scale)) for n in image.shape[:2])
    return image[rows][:, columns]


def draw_channels(path: Path, statistics: ChannelStatistics) -> None:
    """Plot the magnitude of every channel against its standard deviation, with the numbers of massive channels.

    Args:
        path: Image file to write.
        statistics: Statistics of a block.
    """
    figure = new_figure(7, 5)
    axes = figure.subplots()
    massive = statistics.massive
    axes.scatter(statistics.magnitude, statistics.std, s=8, color="#888888", label="channels")
    axes.scatter(
        statistics.magnitude[massive], statistics.std[massive], s=60, marker="^", color=WRONG, label="massive channels"
    )
    for channel in massive:
        place = (statistics.magnitude[channel], statistics.std[channel])
        axes.annotate(str(channel), place, (8, 4), textcoords="offset points", fontsize=FONT)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("mean magnitude", fontsize=FONT)
    axes.set_ylabel("standard deviation over tokens", fontsize=FONT)
    axes.legend(frameon=False, fontsize=FONT)
    save(figure, path)
