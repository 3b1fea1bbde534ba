"""Visualizations: matches, masks over frames, features as colours, channels, search results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ditf.data.images import PNG_COMPRESSION, RGB
from ditf.data.masks import PALETTE
from ditf.drawing.charts import new_figure, save, show
from ditf.features.descriptors import ChannelStatistics
from ditf.features.reader import FeatureReader
from ditf.types import Descriptor

T = TypeVar("T")

if TYPE_CHECKING:
    from ditf.tasks.base import DescriptorSettings

CORRECT, WRONG, QUERY = "#2ca02c", "#d62728", "#ff7f0e"
PLACES_SHOWN, PLACES_ACROSS = 24, 6
SHEET_WIDTH = 1280
SHEET_COLUMNS = 4
COLOURED_IMAGES = 8


def draw_matches(
    path: Path, name: str, source: RGB, target: RGB, rows: Sequence[Mapping[str, Any]], alpha: float
) -> None:
    """Draw a pair's predictions on both images: correct (error at most alpha * threshold) green, wrong red.

    Args:
        path: of the image.
        name: of the pair.
        source, target: the images, [height, width, 3].
        rows: predictions with the columns of `ditf.metrics.pck.PREDICTIONS`; a ring marks the truth.
    """
    from matplotlib.patches import ConnectionPatch

    figure = new_figure(12, 5)
    left, right = figure.subplots(1, 2)
    show(left, source)
    show(right, target)
    correct = 0
    for row in rows:
        good = row["error"] <= alpha * row["threshold"]
        correct += good
        colour = CORRECT if good else WRONG
        start, end = (row["source_x"], row["source_y"]), (row["predicted_x"], row["predicted_y"])
        line = ConnectionPatch(start, end, "data", "data", axesA=left, axesB=right, color=colour, linewidth=1.2)
        figure.add_artist(line)
        for axes, point in ((left, start), (right, end)):
            axes.plot(*point, "o", color=colour, markeredgecolor="white", markersize=6)
        right.plot(row["target_x"], row["target_y"], "o", mfc="none", mec="white", markersize=10)
    figure.suptitle(f"{name}   {correct} of {len(rows)} correct at alpha {alpha:g}", y=0.98, parse_math=False)
    save(figure, path)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spaced from the first to the last."""
    return [items[n] for n in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


def overlay(image: RGB, mask: NDArray[np.uint8], strength: float = 0.55) -> RGB:
    """Colour the objects of an index mask [height, width] over an image [height, width, 3]."""
    shown, inside = image.copy(), mask > 0
    colours = np.array(PALETTE, np.float32).reshape(256, 3)[mask[inside]]
    shown[inside] = ((1 - strength) * image[inside] + strength * colours).round()
    return shown


def contact_sheet(path: Path, images: Sequence[RGB], columns: int) -> None:
    """Write images of one size as a grid, scaled to fit 1280 pixels across."""
    height, width = images[0].shape[:2]
    scale = min(1.0, SHEET_WIDTH / (columns * width))
    size = (round(width * scale), round(height * scale))
    sheet = Image.new("RGB", (columns * size[0], -(-len(images) // columns) * size[1]), "white")
    for index, image in enumerate(images):
        place = (index % columns * size[0], index // columns * size[1])
        sheet.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), place)
    sheet.save(path, compress_level=PNG_COMPRESSION)


def animation(path: Path, images: Sequence[RGB], seconds: float = 0.1) -> None:
    """Write images of one size as an endless GIF, each shown for `seconds`."""
    first, *others = (Image.fromarray(image).quantize(method=Image.Quantize.FASTOCTREE) for image in images)
    first.save(path, save_all=True, append_images=others, duration=round(1000 * seconds), loop=0)


def feature_colours(maps: Sequence[NDArray[np.float32]]) -> list[RGB]:
    """Descriptor maps, each [h, w, C], as colours: their first three principal components, common to all."""
    stacked = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    stacked = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)
    centred = stacked - stacked.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    score = centred @ axes[:, ::-1][:, :3]
    low, high = np.percentile(score, [1, 99], axis=0)
    colours = np.clip((score - low) / np.maximum(high - low, 1e-12), 0, 1)
    ends = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
    return [
        (255 * part.reshape(*m.shape[:2], 3)).round().astype(np.uint8)
        for m, part in zip(maps, np.split(colours, ends), strict=True)
    ]


def draw_feature_colours(
    path: Path,
    read: Callable[[str], RGB],
    store: FeatureReader,
    items: Sequence[str],
    reading: "DescriptorSettings",
    descriptor: Descriptor,
) -> None:
    """Draw descriptors as colours beside their images, with principal components common to all; of 8 images at most.

    Args:
        path: of the image.
        read: gives the pixels of an image by its id.
        store, items: whose features. reading, descriptor: which of them.
    """
    channels, items = reading.discarded(store), list(dict.fromkeys(items))[:COLOURED_IMAGES]
    maps = []
    for item in items:
        features = store.features(reading.block, item)
        maps.append(features.descriptors(descriptor, channels).reshape(*features.grid, -1))
    tiles: list[RGB] = []
    for item, colours in zip(items, feature_colours(maps), strict=True):
        tiles += [_tile(read(item)), _tile(colours)]
    contact_sheet(path, tiles, SHEET_COLUMNS)


def _tile(image: RGB, side: int = 320) -> RGB:
    """Scale an image, by repeating pixels, into a square of `side` pixels on white."""
    scale = side / max(image.shape[:2])
    rows, columns = (np.arange(max(1, round(n * scale))) * n // max(1, round(n * scale)) for n in image.shape[:2])
    tile = np.full((side, side, 3), 255, np.uint8)
    tile[: len(rows), : len(columns)] = image[rows][:, columns]
    return tile


def draw_channels(path: Path, statistics: ChannelStatistics) -> None:
    """Plot every channel's magnitude against its spread; the massive ones are named."""
    figure = new_figure(7, 5)
    axes = figure.subplots()
    massive = statistics.massive
    axes.scatter(statistics.magnitude, statistics.std, s=8, color="#888888", label="channels")
    axes.scatter(statistics.magnitude[massive], statistics.std[massive], s=24, color=WRONG, label="massive")
    for channel in massive:
        axes.annotate(
            str(channel), (statistics.magnitude[channel], statistics.std[channel]), (4, 4), textcoords="offset points"
        )
    axes.set(xscale="log", yscale="log", xlabel="mean magnitude", ylabel="standard deviation over tokens")
    axes.legend()
    save(figure, path)


def draw_places(
    path: Path, query: RGB, mark: Sequence[float], places: Sequence[Mapping[str, Any]], read: Callable[[str], RGB]
) -> None:
    """Draw what was searched for and the places found, as a contact sheet.

    Args:
        path: of the image.
        query: the image searched with. mark: the point x, y or the box x0, y0, x1, y1 in it, or nothing.
        places: what was found: rank, image, similarity, box (x0, y0, x1, y1) or None. The first 23 are drawn.
        read: gives the pixels of an image by its id.
    """
    shown = places[: PLACES_SHOWN - 1]
    columns = min(PLACES_ACROSS, len(shown) + 1)
    rows = -(-(len(shown) + 1) // columns)
    figure = new_figure(2.6 * columns, 2.6 * rows)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells[len(shown) + 1 :]:
        axes.axis("off")
    show(cells[0], query, "query")
    _mark(cells[0], mark, QUERY)
    for axes, place in zip(cells[1:], shown, strict=False):
        show(axes, read(place["image"]), f"{place['rank']}  {place['image']}  {place['similarity']:.3f}")
        _mark(axes, place["box"] or (), CORRECT)
    save(figure, path)


def draw_similarity(
    path: Path, source: RGB, target: RGB, rows: Sequence[Mapping[str, Any]], maps: NDArray[np.floating]
) -> None:
    """Draw each point in the source beside its similarity map over the target, the match ringed.

    Args:
        path: of the image.
        source, target: the images, [height, width, 3].
        rows: point (x, y), match (x, y), similarity.
        maps: cosine similarities of the target's tokens to each point, [points, h, w].
    """
    figure = new_figure(9, 3.6 * len(rows))
    for (left, right), row, similarity in zip(figure.subplots(len(rows), 2, squeeze=False), rows, maps, strict=True):
        show(left, source, f"{row['point'][0]}, {row['point'][1]}")
        show(right, target, f"{row['match'][0]}, {row['match'][1]}   similarity {row['similarity']:.3f}")
        height, width = target.shape[:2]
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        right.imshow(similarity, extent=extent, alpha=0.55, cmap="inferno", interpolation="bilinear")
        right.set(xlim=extent[:2], ylim=extent[2:])
        _mark(left, row["point"], QUERY)
        _mark(right, row["match"], CORRECT)
    save(figure, path)


def _mark(axes: Any, mark: Sequence[float], colour: str) -> None:
    """Mark a point x, y or a box x0, y0, x1, y1; nothing for nothing."""
    from matplotlib.patches import Rectangle

    if len(mark) == 2:
        axes.plot(*mark, "o", mfc="none", mec="white", markersize=11, mew=3.5)
        axes.plot(*mark, "o", mfc="none", mec=colour, markersize=11, mew=1.8)
    elif len(mark) == 4:
        x0, y0, x1, y1 = mark
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="white", lw=3.5))
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.8))
