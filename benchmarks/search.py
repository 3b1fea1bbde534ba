"""Search among a million tokens: build time, bytes, time of a query and recall, beside exact search.

Images are made of regions of a few hundred kinds, smooth within each, plus noise; FLUX's own features are not at hand.
"""

import argparse
import contextlib
import functools
import io
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from benchmarks.report import machine, peak_memory, show, timed
from ditf.features.store_writer import StoreItem, write_store
from ditf.retrieval.index import IndexSettings, build
from ditf.retrieval.search import FeatureIndex

GRID, LATENT = (30, 40), 256
KINDS, REGIONS = 200, 6
QUERIES = 100


class Scenes:
    """Random features [tokens, channels]: kinds of decaying spread, their variation, and noise."""

    def __init__(self, channels: int) -> None:
        rng = np.random.default_rng(0)
        self._spread = np.arange(1, LATENT + 1, dtype=np.float32) ** -0.5
        self._mixing = rng.standard_normal((LATENT, channels)).astype(np.float32)
        self._offset = rng.standard_normal(channels).astype(np.float32)
        self._kinds = rng.standard_normal((KINDS, LATENT)).astype(np.float32) * self._spread

    def image(self, number: int) -> NDArray[np.float32]:
        rng = np.random.default_rng([1, number])
        kinds, seeds = rng.integers(0, KINDS, REGIONS), rng.uniform(0, 1, (REGIONS, 2)) * GRID
        place = np.moveaxis(np.indices(GRID), 0, -1)[..., None, :]
        region = ((place - seeds) ** 2).sum(-1).argmin(-1)
        field = gaussian_filter(rng.standard_normal((*GRID, LATENT)).astype(np.float32), (1.5, 1.5, 0))
        latent = self._kinds[kinds[region]] + 0.7 * field / field.std() * self._spread
        signal = latent.reshape(-1, LATENT) @ self._mixing
        noise = rng.standard_normal(signal.shape, dtype=np.float32)
        return np.asarray(signal + self._offset + 0.3 * np.abs(signal).mean() * noise, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=834)
    parser.add_argument("--channels", type=int, default=3072)
    parser.add_argument("--kinds", nargs="+", default=["auto"])
    options = parser.parse_args()
    scenes, folder = Scenes(options.channels), Path(tempfile.mkdtemp(prefix="ditf-"))
    items = [StoreItem(str(i), str(i), GRID, (640, 480), "") for i in range(options.images)]
    try:
        features = ({28: (scenes.image(number), None)} for number in tqdm(range(options.images), "store"))
        store = write_store(folder / "store", items, features)
        feature_bytes = options.images * GRID[0] * GRID[1] * options.channels * 2
        held = peak_memory()
        for kind in options.kinds:
            settings = IndexSettings(kind, 28, "original", ())
            with contextlib.redirect_stdout(io.StringIO()):
                seconds, recall = timed(functools.partial(build, store, settings, folder / kind))
            peak = peak_memory()
            index = FeatureIndex(folder / kind, store)
            asked = [index.descriptors(item)[617].copy() for item in store.ids[:: max(1, len(store) // QUERIES)]]
            token_bytes = (folder / kind / "tokens.faiss").stat().st_size
            index.nearest(asked[0], 10)
            rows = [
                ("tokens, channels", f"{len(index):,}, {options.channels}"),
                ("factory string", f"`{index.factory}`"),
                ("build", f"{seconds:.0f} s, reading the store included"),
                ("index", f"{token_bytes / 1e6:.0f} MB, **{token_bytes / feature_bytes:.1%}** of the float16 features"),
                ("peak memory (before the build)", f"{peak:.2f} GB ({held:.2f} GB)"),
                (
                    "a query of the index, 10 places",
                    f"**{1e3 * _median(functools.partial(index.nearest, k=10), asked):.2f} ms**",
                ),
                (
                    "the same, compared exactly afterwards",
                    f"{1e3 * _median(functools.partial(index.search, k=10), asked):.0f} ms",
                ),
                *((name, f"{recall[name]:.3f}") for name in ("recall@1", "recall@10", "recall@100")),
            ]
            show(f"Search, {kind} ({machine()})", rows)
        reader = faiss.IndexFlatIP(options.channels)
        seconds = 0.0
        for item in store.ids[: len(store) // 8]:  # exact search reads everything; an eighth is measured
            reader.add(index.descriptors(item))
            seconds += timed(lambda: reader.search(asked[0][None], 10))[0]
            reader.reset()
        show("Search, exact", [("a query, computed from an eighth, once read", f"{8e3 * seconds:.0f} ms")])
    finally:
        shutil.rmtree(folder)


def _median(work: Callable[[NDArray[np.float32]], object], queries: list[NDArray[np.float32]]) -> float:
    return statistics.median(timed(functools.partial(work, query))[0] for query in queries)


if __name__ == "__main__":
    main()
