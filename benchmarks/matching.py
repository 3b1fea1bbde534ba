"""Matching at SPair-71k's size, from the cold store to PCK, beside a fair reference and the published way."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import reference
from benchmarks.report import machine, peak_memory, show, timed
from ditf.data.catalog import Catalog, Row, Tables, write_catalog
from ditf.features.store import FeatureStore
from ditf.features.store_writer import BlockFeatures, StoreItem, write_store
from ditf.matching.pairs import MatchingJob, predict
from ditf.metrics.pck import pck

CHANNELS, MASSIVE = 3072, (11, 154)
SIZES = {(500, 375): (30, 40), (375, 500): (40, 30), (500, 333): (27, 40)}  # pixels: tokens at 640 px


def make_store(path: Path, images: int, channels: int = CHANNELS, seed: int = 0) -> FeatureStore:
    """A store of random smooth features with two massive channels."""
    rng = np.random.default_rng(seed)
    sizes = list(SIZES.items())
    items = []
    for i in range(images):
        size, grid = sizes[rng.choice(3, p=[0.7, 0.2, 0.1])]
        items.append(StoreItem(f"category{i % 18:02d}/{i:04d}", str(i), grid, size, f"category{i % 18:02d}"))
    common = rng.standard_normal((64, channels), dtype=np.float32)
    modulations = {item.prompt: 0.1 * rng.standard_normal((3, channels), dtype=np.float32) for item in items}

    def features() -> Iterator[dict[int, BlockFeatures]]:
        for item in tqdm(items, "store", delay=1):
            h, w = item.grid
            coarse = torch.from_numpy(rng.standard_normal((1, 64, h // 4 + 2, w // 4 + 2), dtype=np.float32))
            smooth = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic")[0].flatten(1).T.numpy()
            tokens = smooth @ common + 4 * rng.standard_normal((h * w, channels), dtype=np.float32)
            tokens[:, MASSIVE] = 1000 * (1 + 0.2 * rng.standard_normal((h * w, 2), dtype=np.float32))
            yield {28: (tokens, modulations[item.prompt])}

    return write_store(path, items, features())


def make_catalog(
    folder: Path, store: FeatureStore, count: int, seed: int = 1, points: int | None = None, across: bool = False
) -> Catalog:
    """Pairs of images of a category, or of two with `across`, with `points` keypoints each, or else with 4 to 10."""
    rng = np.random.default_rng(seed)
    images, pairs, keypoints = list[Row](), list[Row](), list[Row]()
    for item in store.ids:
        width, height = store.size(item)
        row = {"id": item, "path": item, "sha256": "", "pixels_sha256": "", "width": width, "height": height}
        images.append(row | {"category": item.split("/")[0], "prompt": ""})
    kinds: dict[str, list[str]] = {}
    for item in store.ids:
        kinds.setdefault(item.split("/")[0], []).append(item)
    usable = [kind for kind in kinds if len(kinds[kind]) > 1]
    for number in range(count):
        category = usable[rng.integers(len(usable))]
        source, target = (str(name) for name in rng.choice(store.ids if across else kinds[category], 2, replace=False))
        pair = {"pair": f"{number:06d}", "category": category, "source": source, "target": target}
        pairs.append({**pair, "threshold": float(max(store.size(target))), "occlusion": 0})
        for k in range(points or int(rng.integers(4, 11))):
            point: Row = {"pair": pair["pair"], "keypoint": k, "name": ""}
            for side, (width, height) in (("source", store.size(source)), ("target", store.size(target))):
                point |= {f"{side}_x": int(rng.integers(width)), f"{side}_y": int(rng.integers(height))}
            keypoints.append(point | {f"target_{axis}": float(point[f"target_{axis}"]) for axis in "xy"})
    write_catalog(folder, Tables({"images": images, "pairs": pairs, "keypoints": keypoints}, "longer"))
    return Catalog(folder)


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache, so that reading them is reading the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def of_one_pair(store: FeatureStore, catalog: Catalog, match: Any, found: Any) -> tuple[float, float]:
    """Seconds that a reference takes for the first pair, and its greatest difference of a similarity."""
    pair = catalog.rows("pairs")[0]
    rows = [row for row in catalog.rows("keypoints") if row["pair"] == pair["pair"]]
    points = np.array([[row["source_x"], row["source_y"]] for row in rows], np.int64)

    def work() -> Any:
        images = [store.features(28, pair[side]) for side in ("source", "target")]
        maps = [torch.from_numpy(image.map("adaln+discard", MASSIVE).copy()) for image in images]
        return match(maps[0], maps[1], images[0].size, images[1].size, points)

    seconds, (_, values) = timed(work)
    return seconds, float(np.abs(values - found[: len(rows)]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=486)
    parser.add_argument("--pairs", type=int, default=12234)
    parser.add_argument("--points", type=int, help="per pair; 4 to 10 by default")
    parser.add_argument("--across", action="store_true", help="pairs of any two images")
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--folder", type=Path, help="where the store is made, and kept; a temporary one by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ditf-"))
    try:
        path = folder / "store"
        store = FeatureStore(path) if path.exists() else make_store(path, options.images, options.channels)
        catalog = make_catalog(folder / "catalog", store, options.pairs, 1, options.points, options.across)
        forget(folder)

        def work() -> Any:
            found = predict(MatchingJob(store, 28, "adaln+discard", MASSIVE), catalog)
            pck(found, [0.05, 0.1, 0.15])
            return found["similarity"].to_numpy()

        before = peak_memory()
        seconds, found = timed(work)
        memory = peak_memory()
        each = seconds / options.pairs
        fair, difference = of_one_pair(store, catalog, reference.match, found)
        published, other = of_one_pair(store, catalog, reference.match_as_published, found)
        show(
            f"Matching ({machine()})",
            [
                ("images, pairs, keypoints", f"{len(store)}, {options.pairs}, {len(found)}"),
                ("from the cold store to PCK of all pairs", f"**{seconds:.1f} s**, {1000 * each:.2f} ms per pair"),
                ("the same per keypoint", f"{1e6 * seconds / len(found):.0f} µs"),
                ("peak memory (before matching)", f"{memory:.2f} GB ({before:.2f} GB)"),
                (
                    "a fair reference: upsample and normalize once, one product for all keypoints",
                    f"{fair:.2f} s per pair",
                ),
                ("**ratio to the fair reference**", f"**{fair / each:,.0f}**"),
                ("the published way: the map normalized again for each keypoint", f"{published:.1f} s per pair"),
                ("ratio to the published way", f"{published / each:,.0f}"),
                ("greatest difference of a similarity", f"{max(difference, other):.1e}"),
            ],
        )
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
