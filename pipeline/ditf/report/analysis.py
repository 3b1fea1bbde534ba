"""The paper's evidence about massive activations, from a store alone: which channels, where, and what AdaLN does.

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
IMAGES, TOKENS = 16, 256  # of which similarities are taken
SHOWN = 4  # images in maps

Rows = list[dict[str, Any]]


def channels(store: FeatureStore, block: int) -> Rows:
    """All channels, the largest first: magnitude, mean, std, ratio to the median magnitude, and whether massive."""
    found = store.statistics(block)
    return [
        {
            "channel": int(channel),
            **{key: float(getattr(found, key)[channel]) for key in ("magnitude", "mean", "std", "ratio")},
            "massive": int(channel in found.massive),
        }
        for channel in np.argsort(-found.magnitude)
    ]


def largest(store: FeatureStore) -> Rows:
    """The ten largest channels of each block, with their rank in the block's AdaLN.

    `gate rank`, and so on: where the channel stands among the magnitudes of the gate, averaged over prompts; 1 is the
    largest. Empty for models without AdaLN.
    """
    rows: Rows = []
    for block in store.blocks:
        ranks = _ranks(store, block)
        for row in channels(store, block)[:LARGEST]:
            own = {f"{name} rank": int(rank[row["channel"]]) for name, rank in ranks.items()}
            rows.append({"block": block, **row, **own})
    return rows


def _ranks(store: FeatureStore, block: int) -> dict[str, NDArray[np.int64]]:
    """The rank of every channel in shift, scale and gate."""
    first = {prompt: item for item, prompt in zip(reversed(store.ids), reversed(store.prompt_of), strict=True)}
    found = [store.conditions(block, item) for item in first.values()]
    if not all(BOTH in each for each in found):
        return {}
    magnitude = np.mean([np.abs(each[BOTH]) for each in found], axis=0)
    ranks = np.argsort(np.argsort(-magnitude, axis=1), axis=1) + 1
    return dict(zip(("shift", "scale", "gate"), ranks, strict=True))


def descriptors_of(store: FeatureStore) -> tuple[Descriptor, ...]:
    """What can be told apart: with AdaLN, the features as they are, modulated, and modulated after discard."""
    return MODULATED if store.attributes["conditions"] else ORIGINAL


def similarities(store: FeatureStore, block: int) -> dict[Descriptor, NDArray[np.float32]]:
    """Mutual cosine similarities of different tokens of the same image, of at most 16 images and 256 tokens each."""
    found: dict[Descriptor, list[NDArray[np.float32]]] = {name: [] for name in descriptors_of(store)}
    for item in spread(store.ids, IMAGES):
        features = store.features(block, item)
        rows = np.array(spread(range(len(features.tokens)), TOKENS))
        above = np.triu_indices(len(rows), 1)
        for name, values in found.items():
            vectors = unit(features.descriptors(name, rows=rows))
            values.append((vectors @ vectors.T)[above])
    return {name: np.concatenate(values) for name, values in found.items()}


def similarity_rows(block: int, found: dict[Descriptor, NDArray[np.float32]]) -> Rows:
    """Their mean and percentiles: the lower, the more spread out the descriptors are."""
    rows: Rows = []
    for name, values in found.items():
        low, middle, high = (float(x) for x in np.percentile(values, [5, 50, 95]))
        head: dict[str, Any] = {"block": block, "descriptor": name, "mean": float(values.mean())}
        rows.append({**head, "5 %": low, "median": middle, "95 %": high})
    return rows


def draw_similarities(found: dict[Descriptor, NDArray[np.float32]], block: int) -> "Figure":
    """How mutual similarities are distributed, by descriptor."""
    figure = new_figure(6, 3.4)
    axes = figure.subplots()
    for name, values in found.items():
        axes.hist(
            values, bins=np.linspace(-1, 1, 81).tolist(), histtype="step", density=True, linewidth=1.6, label=name
        )
    axes.set(xlabel="cosine similarity of two tokens of an image", ylabel="density", title=f"block {block}")
    axes.legend(loc="upper left", frameon=False)
    return figure


def draw_over_blocks(store: FeatureStore) -> "Figure":
    """Magnitudes of the channels that are massive in any block, and the median channel's, over blocks."""
    figure = new_figure(6, 3.4)
    axes = figure.subplots()
    magnitudes = {block: store.statistics(block).magnitude for block in store.blocks}
    massive = sorted({channel for block in store.blocks for channel in store.massive(block)})
    for channel in massive:
        values = [found[channel] if channel < len(found) else np.nan for found in magnitudes.values()]
        axes.plot(store.blocks, values, "o-", label=f"channel {channel}")
    axes.plot(store.blocks, [np.median(found) for found in magnitudes.values()], "k--", label="median channel")
    axes.set(yscale="log", xlabel="block", ylabel="mean magnitude", xticks=store.blocks)
    axes.legend(frameon=False)
    return figure


def draw_maps(store: FeatureStore, block: int) -> "Figure":
    """Of a few images, a row each: the largest channel over the image, and each descriptor as colours.

    Colours are the first three principal components, common to the images.
    """
    items, names = spread(store.ids, SHOWN), descriptors_of(store)
    channel = int(np.argmax(store.statistics(block).magnitude))
    features = [store.features(block, item) for item in items]
    colours = {
        name: feature_colours([one.descriptors(name).reshape(*one.grid, -1) for one in features]) for name in names
    }
    figure = new_figure(2.6 * (1 + len(names)), 2.4 * len(items))
    for number, (item, one, cells) in enumerate(
        zip(items, features, figure.subplots(len(items), 1 + len(names), squeeze=False), strict=True)
    ):
        width, height = one.size
        extent = (0, width, height, 0)
        values = np.asarray(one.tokens[:, channel], np.float32).reshape(one.grid)
        show(cells[0], values, f"channel {channel}\n{item}" if number == 0 else item, extent=extent)
        for axes, name in zip(cells[1:], names, strict=True):
            show(axes, colours[name][number], name if number == 0 else "", extent=extent)
    return figure
