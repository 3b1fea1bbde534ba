"""A linear probe's training beside reading alone: tokens per second, from a store of full width in the page cache."""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.matching import CHANNELS, MASSIVE, make_store
from benchmarks.report import machine, peak_memory, show, timed
from ditf.segmentation import linear_probe as probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--classes", type=int, default=150)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    try:
        store = make_store(folder / "store", options.images, options.channels)
        tokens = int(store.grids(28).prod(1).sum())
        rng = np.random.default_rng(0)
        labels = {
            item: rng.integers(0, options.classes, store.grid(item)).astype(np.uint8).ravel() for item in store.ids
        }

        rng = np.random.default_rng(0)

        def read(item: str, _: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            return store.features(28, item).descriptors("adaln+discard", MASSIVE), labels[item]

        def alone() -> None:
            for item in store.ids:
                read(item, rng)

        def products() -> None:
            batch = probe.ProbeTraining().batch
            rows, weights = torch.randn(batch, options.channels), torch.randn(options.channels, options.classes)
            for _ in range(tokens // batch):
                logits = rows @ weights
                logits.T @ rows

        def trained() -> None:
            training = probe.ProbeTraining(epochs=1)
            probe.train(store.ids, read, options.channels, options.classes, training)

        alone()  # from here on, the store is in the page cache, and torch has imported what it needs
        probe.train(store.ids[:1], read, options.channels, options.classes, probe.ProbeTraining(epochs=1))
        reading, _ = timed(alone)
        multiplying, _ = timed(products)
        training, _ = timed(trained)
        show(
            f"Linear probe ({machine()})",
            [
                ("tokens of an epoch, channels, classes", f"{tokens:,}, {options.channels}, {options.classes}"),
                ("reading and describing alone", f"{tokens / reading:,.0f} tokens/s"),
                ("the matrix products of training alone", f"{tokens / multiplying:,.0f} tokens/s"),
                ("training", f"{tokens / training:,.0f} tokens/s, **{reading / training:.2f}** of it"),
                ("peak memory", f"{peak_memory():.2f} GB"),
            ],
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
