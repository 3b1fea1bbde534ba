"""Writing and reading whole items of the store, beside a numpy.memmap of the same bytes on the same disk."""

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.matching import forget
from benchmarks.report import machine, show, timed
from ditf.features.descriptors import describe
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store

GRID, CHANNELS, TIMES = (30, 40), 3072, 3


def alternate(*ways: tuple[Callable[[], object], Callable[[], object]]) -> list[float]:
    """The median time of each (preparation, work), taken in turn: a disk's speed changes from minute to minute."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(TIMES):
        for (prepare, work), taken in zip(ways, times, strict=True):
            prepare()
            taken.append(timed(work)[0])
    return [statistics.median(taken) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=64)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((options.items, GRID[0] * GRID[1], CHANNELS), dtype=np.float32)
    modulation = rng.standard_normal((3, CHANNELS), dtype=np.float32)
    items = [StoreItem(str(i), str(i), GRID, (640, 480), "") for i in range(options.items)]
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    size = 2 * tokens.size / 1e6

    def write_map() -> None:
        array = np.memmap(folder / "map", np.float16, "w+", shape=tokens.shape)
        for index, values in enumerate(tokens):
            array[index] = values
        array.flush()

    def write() -> None:
        write_store(folder / "store", items, ({28: (values, modulation)} for values in tokens))

    def read() -> None:
        store = FeatureStore(folder / "store")
        for item in store.ids:
            store.tokens(28, item)

    def read_map() -> None:
        array = np.memmap(folder / "map", np.float16, "r", shape=tokens.shape)
        for index in range(options.items):
            np.array(array[index])

    def remove(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.sync()

    try:
        written = alternate((lambda: remove(folder / "store"), write), (lambda: remove(folder / "map"), write_map))
        cold = alternate((lambda: forget(folder), read), (lambda: forget(folder), read_map))
        warm = alternate((lambda: None, read), (lambda: None, read_map))
        described, _ = timed(lambda: [describe(x, modulation, "adaln") for x in tokens])
        rows = [("items, bytes each", f"{options.items}, {size / options.items:.1f} MB of float16")]
        for name, (ours, plain) in (
            ("write, statistics included", written),
            ("read, cold", cold),
            ("read, in memory", warm),
        ):
            rows.append((name, f"{size / ours:,.0f} MB/s; memmap {size / plain:,.0f} MB/s"))
        rows.append(("for comparison: AdaLN descriptors, computed", f"{size / described:,.0f} MB/s"))
        show(f"Store ({machine()})", rows)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
