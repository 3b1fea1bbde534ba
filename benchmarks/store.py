"""Writing and reading whole items of the store, beside a numpy.memmap of the same bytes on the same disk."""

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pipeline.store
from pipeline.store import Features, FeatureStore, Item
from pipeline.writer import StoreWriter

from benchmarks.matching import forget
from benchmarks.report import machine, show, timed

GRID, CHANNELS, TIMES = (30, 40), 3072, 9


def alternate(*ways: tuple[Callable[[], object], Callable[[], object]]) -> list[float]:
    """The median time of each (preparation, work), taken in turn: the speed of a disk changes from minute to minute."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(TIMES):
        for (prepare, work), taken in zip(ways, times, strict=True):
            prepare()
            taken.append(timed(work)[0])
    return [statistics.median(taken) for taken in times]


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

    def remove(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.sync()

    def unread() -> None:
        pipeline.store.mapped.cache_clear()  # pages in use are not dropped
        forget(folder)

    try:
        write = alternate(
            (lambda: remove(folder / "store"), write_store),
            (lambda: remove(folder / "map"), write_map),
        )
        cold = alternate((unread, read_store), (unread, read_map))
        warm = alternate((lambda: None, read_store), (lambda: None, read_map))
        rows = [("items, bytes each", f"{options.items}, {size / options.items:.1f} MB of float16")]
        for name, (ours, plain) in (("write, to the disk", write), ("read, cold", cold), ("read, in memory", warm)):
            rows.append((name, f"{size / ours:,.0f} MB/s; memmap {size / plain:,.0f} MB/s; **{plain / ours:.0%}**"))
        show(f"Store ({machine()})", rows)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
