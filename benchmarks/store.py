"""Writing and reading whole items of the store, beside a numpy.memmap of the same bytes on the same disk."""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.matching import forget
from benchmarks.report import machine, show, timed
from pipeline.store import Features, FeatureStore, Item
from pipeline.writer import StoreWriter

GRID, CHANNELS = (30, 40), 3072


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=128)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((options.items, GRID[0] * GRID[1], CHANNELS), dtype=np.float32).astype(np.float16)
    modulation = rng.standard_normal((3, CHANNELS), dtype=np.float32)
    items = [Item(str(i), str(i), GRID) for i in range(options.items)]
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    size = tokens.nbytes / 1e6

    def write_store() -> Path:
        writer = StoreWriter(folder / "store", items, [28], {})
        for index, values in enumerate(tokens):
            writer.write(index, {28: Features(values, modulation)})
        return writer.finish()

    def write_map() -> None:
        array = np.memmap(folder / "map", np.float16, "w+", shape=tokens.shape)
        for index, values in enumerate(tokens):
            array[index] = values
        array.flush()

    def read_store() -> None:
        store = FeatureStore(folder / "store" / "store.zarr")
        for item in items:
            store.features(28, item.id)

    def read_map() -> None:
        array = np.memmap(folder / "map", np.float16, "r", shape=tokens.shape)
        for index in range(options.items):
            np.array(array[index])

    try:
        write = [timed(work)[0] for work in (write_store, write_map)]
        cold = []
        for work in (read_store, read_map):
            forget(folder)
            cold.append(timed(work)[0])
        warm = [timed(work, 3)[0] for work in (read_store, read_map)]
        rows = [("items, bytes each", f"{options.items}, {size / options.items:.1f} MB of float16")]
        for name, (ours, plain) in (("write, to the disk", write), ("read, cold", cold), ("read, in memory", warm)):
            rows.append((name, f"{size / ours:,.0f} MB/s; memmap {size / plain:,.0f} MB/s; **{plain / ours:.0%}**"))
        show(f"Store ({machine()})", rows)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
