"""Analyse massive activations in a store: the massive channels, their places, and the effect of AdaLN.

Method: Gan et al., "Unleashing Diffusion Transformers for Visual Correspondence by Modulating Massive Activations"
(arXiv 2505.18584), sections 3 and 4.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ditf.drawing.features import feature_colours
from ditf.drawing.figures import new_figure, show, spread
from ditf.features.descriptors import unit
from ditf.features.store import FeatureStore
from ditf.types import BOTH, MODULATED, ORIGINAL, Descriptor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 10  # channels listed per block
IMAGES = 16  # images in similarities
TOKENS = 256  # tokens per image in similarities
SHOWN = 4  # images in maps

Rows = list[dict[str, Any]]


def channels(store: FeatureStore, block: int) -> Rows:
    """Return a row per channel, the largest magnitude first.

    Args:
        store: The store.
        block: Block whose channels are listed.

    Returns:
        Rows with the columns "channel", "magnitude", "mean", "std", "ratio" to the median magnitude, and "massive".
    """
    statistics = store.statistics(block)
    return [
        {
            "channel": int(channel),
            **{key: float(getattr(statistics, key)[channel]) for key in ("magnitude", "mean", "std", "ratio")},
            "massive": int(channel in statistics.massive),
        }
        for channel in np.argsort(-statistics.magnitude)
    ]


def largest(store: FeatureStore) -> Rows:
    """Return the ten largest channels of each block, with their ranks in the block's AdaLN.

    The columns "shift rank", "scale rank" and "gate rank" rank channels by their magnitude, averaged over prompts. Rank
    1 is the largest. For models without AdaLN, there are no such columns.
    """
    rows: Rows = []
    for block in store.blocks:
        ranks = _ranks(store, block)
        for row in channels(store, block)[:LARGEST]:
            ranks_of_channel = {f"{name} rank": int(rank[row["channel"]]) for name, rank in ranks.items()}
            rows.append({"block": block, **row, **ranks_of_channel})
    return rows


def _ranks(store: FeatureStore, block: int) -> dict[str, NDArray[np.int64]]:
    """Return the rank of every channel in shift, scale and gate."""
    item_of_prompt = {prompt: item for item, prompt in zip(reversed(store.ids), reversed(store.prompt_of), strict=True)}
    conditions = [store.conditions(block, item) for item in item_of_prompt.values()]
    if not all(BOTH in condition for condition in conditions):
        return {}
    magnitude = np.mean([np.abs(condition[BOTH]) for condition in conditions], axis=0)
    ranks = np.argsort(np.argsort(-magnitude, axis=1), axis=1) + 1
    return dict(zip(("shift", "scale", "gate"), ranks, strict=True))


def descriptors_of(store: FeatureStore) -> tuple[Descriptor, ...]:
    """Return the descriptors to compare: all for a model with AdaLN, otherwise only "original"."""
    return MODULATED if store.attributes["conditions"] else ORIGINAL


def similarities(store: FeatureStore, block: int) -> dict[Descriptor, NDArray[np.float32]]:
    """Compute cosine similarities between tokens of the same image.

    Args:
        store: The store. At most `IMAGES` images and `TOKENS` tokens per image are used.
        block: Block of the tokens.

    Returns:
        Similarities of all pairs of tokens, by descriptor. Empty if no image has two tokens.
    """
    values_of: dict[Descriptor, list[NDArray[np.float32]]] = {name: [] for name in descriptors_of(store)}
    for item in spread(store.ids, IMAGES):
        features = store.features(block, item)
        rows = np.array(spread(range(len(features.tokens)), TOKENS))
        above = np.triu_indices(len(rows), 1)
        for name, values in values_of.items():
            vectors = unit(features.descriptors(name, rows=rows))
            values.append((vectors @ vectors.T)[above])
    joined = {name: np.concatenate(values) for name, values in values_of.items()}
    return {name: values for name, values in joined.items() if len(values)}


def similarity_rows(block: int, similarities: dict[Descriptor, NDArray[np.float32]]) -> Rows:
    """Return a row with mean and percentiles of the similarities of each descriptor.

    The lower they are, the more descriptors differ within an image.

    Args:
        block: Block of the tokens.
        similarities: Result of `similarities`.
    """
    rows: Rows = []
    for name, values in similarities.items():
        low, middle, high = (float(x) for x in np.percentile(values, [5, 50, 95]))
        row: dict[str, Any] = {"block": block, "descriptor": name, "mean": float(values.mean())}
        rows.append({**row, "5 %": low, "median": middle, "95 %": high})
    return rows


def draw_similarities(similarities: dict[Descriptor, NDArray[np.float32]], block: int) -> "Figure":
    """Draw histograms of similarities by descriptor."""
    figure = new_figure(6, 3.4)
    axes = figure.subplots()
    for name, values in similarities.items():
        axes.hist(
            values, bins=np.linspace(-1, 1, 81).tolist(), histtype="step", density=True, linewidth=1.6, label=name
        )
    axes.set(xlabel="cosine similarity of two tokens of an image", ylabel="density", title=f"block {block}")
    axes.legend(loc="upper left", frameon=False)
    return figure


def draw_over_blocks(store: FeatureStore) -> "Figure":
    """Draw the magnitude of massive channels and of the median channel over blocks."""
    figure = new_figure(6, 3.4)
    axes = figure.subplots()
    magnitudes = {block: store.statistics(block).magnitude for block in store.blocks}
    massive = sorted({channel for block in store.blocks for channel in store.massive(block)})
    for channel in massive:
        curve = [values[channel] if channel < len(values) else np.nan for values in magnitudes.values()]
        axes.plot(store.blocks, curve, "o-", label=f"channel {channel}")
    axes.plot(store.blocks, [np.median(values) for values in magnitudes.values()], "k--", label="median channel")
    axes.set(yscale="log", xlabel="block", ylabel="mean magnitude", xticks=store.blocks)
    axes.legend(frameon=False)
    return figure


def draw_maps(store: FeatureStore, block: int) -> "Figure":
    """Draw the largest channel and the descriptors of a few images, one image per row.

    Colours show the first three principal components of the descriptors, which all images share.

    Args:
        store: The store.
        block: Block to draw.
    """
    items, names = spread(store.ids, SHOWN), descriptors_of(store)
    channel = int(np.argmax(store.statistics(block).magnitude))
    features = [store.features(block, item) for item in items]
    colours = {
        name: feature_colours([image.descriptors(name).reshape(*image.grid, -1) for image in features])
        for name in names
    }
    figure = new_figure(2.6 * (1 + len(names)), 2.4 * len(items))
    for number, (item, image, cells) in enumerate(
        zip(items, features, figure.subplots(len(items), 1 + len(names), squeeze=False), strict=True)
    ):
        width, height = image.size
        extent = (0, width, height, 0)
        values = np.asarray(image.tokens[:, channel], np.float32).reshape(image.grid)
        show(cells[0], values, f"channel {channel}\n{item}" if number == 0 else item, extent=extent)
        for axes, name in zip(cells[1:], names, strict=True):
            show(axes, colours[name][number], f"PCA, {name}" if number == 0 else "", extent=extent)
    return figure
