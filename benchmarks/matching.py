"""Matching at SPair-71k's size, from the cold store to PCK, beside the direct method."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pipeline.correspondence import predict
from pipeline.pck import GRADES, pck
from pipeline.store import Features, FeatureStore, Item
from pipeline.writer import StoreWriter
from tqdm import tqdm

from benchmarks import direct
from benchmarks.report import machine, peak_memory, show, timed

CHANNELS, MASSIVE = 3072, (154, 1446)
SIZES = {(500, 375): (30, 40), (375, 500): (40, 30), (500, 333): (27, 40)}  # pixels: tokens at 640 px


def make_store(folder: Path, images: int, seed: int = 0) -> tuple[FeatureStore, dict[str, list[dict[str, Any]]]]:
    """A store of random smooth features with two massive channels, and the rows of its images."""
    rng = np.random.default_rng(seed)
    sizes = list(SIZES.items())
    rows, items = [], []
    for i in range(images):
        size, grid = sizes[rng.choice(3, p=[0.7, 0.2, 0.1])]
        items.append(Item(f"category{i % 18}/{i:04d}", str(i), grid))
        rows.append({"id": items[-1].id, "width": size[0], "height": size[1]})
    writer = StoreWriter(folder, items, [28], {})
    common = rng.standard_normal((64, CHANNELS), dtype=np.float32)
    for i, item in enumerate(tqdm(items, "store", delay=1)):
        h, w = item.grid
        coarse = torch.from_numpy(rng.standard_normal((1, 64, h // 4 + 2, w // 4 + 2), dtype=np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic")[0].flatten(1).T.numpy()
        tokens = smooth @ common + 4 * rng.standard_normal((h * w, CHANNELS), dtype=np.float32)
        tokens[:, MASSIVE] = 1000 * (1 + 0.2 * rng.standard_normal((h * w, 2), dtype=np.float32))
        modulation = 0.1 * rng.standard_normal((3, CHANNELS), dtype=np.float32)
        writer.write(i, {28: Features(tokens, modulation)})
    return FeatureStore(writer.finish()), {"images": rows}


def make_pairs(rows: list[dict[str, Any]], count: int, seed: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Pairs of images with 4 to 10 keypoints each, 7 in the mean."""
    rng = np.random.default_rng(seed)
    pairs, keypoints = [], []
    for number in range(count):
        source, target = (rows[i] for i in rng.choice(len(rows), 2, replace=False))
        name = f"{number:06d}"
        grades = dict.fromkeys(GRADES, 0)
        box = (0.0, 0.0, float(target["width"]), float(target["height"]))
        shared = {"pair": name, "category": source["id"].split("/")[0], "target_box": box}
        pairs.append({**shared, **grades, "source": source["id"], "target": target["id"]})
        for k in range(int(rng.integers(4, 11))):
            row: dict[str, Any] = {"pair": name, "keypoint": k}
            for side, image in (("source", source), ("target", target)):
                row |= {f"{side}_x": int(rng.integers(image["width"])), f"{side}_y": int(rng.integers(image["height"]))}
            keypoints.append(row)
    return {"pairs": pairs, "keypoints": keypoints}


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache, so that reading them is reading the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def direct_pair(store: FeatureStore, tables: dict[str, list[dict[str, Any]]], number: int) -> tuple[float, float]:
    """Seconds of the direct method for one pair, and its greatest gain of similarity over the fast method's."""
    pair = tables["pairs"][number]
    rows = [row for row in tables["keypoints"] if row["pair"] == pair["pair"]]
    sizes = {row["id"]: (row["width"], row["height"]) for row in tables["images"]}

    def work() -> Any:
        maps = [
            torch.from_numpy(store.descriptors(28, pair[side], "adaln+discard", MASSIVE)).T.reshape(
                CHANNELS, *store.grid(pair[side])
            )
            for side in ("source", "target")
        ]
        points = np.array([[row["source_x"], row["source_y"]] for row in rows])
        return direct.match(maps[0], maps[1], sizes[pair["source"]], sizes[pair["target"]], points)

    seconds, (_, values) = timed(work)
    found = predict(store, {**tables, "pairs": [pair]}, 28, "adaln+discard", MASSIVE)
    return seconds, float(np.abs(values - found["similarity"].to_numpy()).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=486)
    parser.add_argument("--pairs", type=int, default=12234)
    parser.add_argument("--folder", type=Path, help="where the store is made, and kept; a temporary one by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ditf-"))
    try:
        if (folder / "complete").exists():
            store = FeatureStore(folder / "store.zarr")
            sizes = {grid: size for size, grid in SIZES.items()}
            rows = [dict(zip(("id", "width", "height"), (i, *sizes[store.grid(i)]), strict=True)) for i in store.ids]
            tables = {"images": rows}
        else:
            store, tables = make_store(folder, options.images)
        tables |= make_pairs(tables["images"], options.pairs)
        forget(folder)

        def work() -> Any:
            return pck(predict(store, tables, 28, "adaln+discard", MASSIVE), [0.05, 0.1, 0.15])

        before = peak_memory()
        seconds, _ = timed(work)
        memory = peak_memory()
        each = 1000 * seconds / len(tables["pairs"])
        plain, difference = direct_pair(store, tables, 0)
        show(
            f"Matching ({machine()})",
            [
                ("images, pairs, keypoints", f"{len(store)}, {len(tables['pairs'])}, {len(tables['keypoints'])}"),
                ("from the cold store to PCK of all pairs", f"{seconds:.1f} s, {each:.2f} ms a pair"),
                ("peak memory (before matching)", f"{memory:.2f} GB ({before:.2f} GB)"),
                ("the direct method, a pair", f"{plain:.1f} s"),
                ("**ratio**", f"**{1000 * plain / each:,.0f}**"),
                ("greatest difference of a similarity", f"{difference:.1e}"),
            ],
        )
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
