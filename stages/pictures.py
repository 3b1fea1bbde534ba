"""Pictures of the results -> results/<dataset>/pictures/."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.catalog import read_table
from pipeline.datasets.davis import by_sequence
from pipeline.descriptors import Descriptor
from pipeline.images import RGB, read_index_mask, read_rgb, shrink
from pipeline.pictures import animation, contact_sheet, draw_matches, feature_colours, overlay
from pipeline.store import FeatureStore
from stages import CACHE, CATALOGS, RESULTS, Params, discarded, run

ALPHA = 0.1  # a match is right by the headline measure, whatever `alphas` are scored
SHEET_COLUMNS = 4
SHEET_FRAMES = 16
PCA_IMAGES = 8
FRAME_SIDE = 480  # longer side of a frame in contact sheets and animations


def main(params: Params, dataset: str) -> None:
    folder = RESULTS / dataset / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    section = params.spair if dataset == "spair" else params.davis
    paths = {row["id"]: Path(section.root) / row["path"] for row in read_table(CATALOGS / dataset, "images")}
    descriptor = section.descriptors[-1]
    draw = _matches if dataset == "spair" else _videos
    shown = draw(folder, paths, descriptor)
    _features(folder, paths, shown, dataset, section.block, descriptor)


def _matches(folder: Path, paths: dict[str, Path], descriptor: str) -> list[str]:
    """Draw the best, the median and the worst pair; returns the images shown."""
    table = pq.read_table(RESULTS / "spair" / "predictions.parquet", filters=[("descriptor", "=", descriptor)])
    pairs = {row["pair"]: row for row in read_table(CATALOGS / "spair", "pairs")}
    rows = {name: list(group) for name, group in itertools.groupby(table.to_pylist(), lambda row: row["pair"])}
    ranked = sorted(rows, key=lambda name: np.mean([row["error"] / row["extent"] for row in rows[name]]))
    picks = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    for title, name in picks.items():
        source, target = (read_rgb(paths[pairs[name][side]]) for side in ("source", "target"))
        draw_matches(folder / f"matches_{title}.png", source, target, rows[name], ALPHA)
    return [pairs[name][side] for name in picks.values() for side in ("source", "target")]


def _videos(folder: Path, paths: dict[str, Path], descriptor: str) -> list[str]:
    """Draw each sequence as a contact sheet and an animation; returns the images for the colours."""
    sequences = by_sequence(read_table(CATALOGS / "davis", "frames"))
    for sequence, frames in sequences.items():
        masks = RESULTS / "davis" / "masks" / descriptor / sequence
        shown = (overlay(read_rgb(paths[row["id"]]), read_index_mask(masks / f"{row['name']}.png")) for row in frames)
        images = [shrink(image, FRAME_SIDE) for image in shown]
        chosen = np.linspace(0, len(images) - 1, min(SHEET_FRAMES, len(images))).round().astype(int)
        contact_sheet(folder / f"{sequence}.png", [images[n] for n in chosen], SHEET_COLUMNS)
        animation(folder / f"{sequence}.gif", images)
    return [frames[n]["id"] for frames in sequences.values() for n in (0, len(frames) // 2)]


def _features(
    folder: Path, paths: dict[str, Path], shown: list[str], dataset: str, block: int, descriptor: Descriptor
) -> None:
    """Draw descriptors as colours beside their images, principal components common to all."""
    store, channels = FeatureStore(CACHE / "features" / dataset), discarded(dataset)
    shown = list(dict.fromkeys(shown))[:PCA_IMAGES]
    maps = [store.descriptors(block, name, descriptor, channels).reshape(*store.grid(name), -1) for name in shown]
    tiles: list[RGB] = []
    for name, colours in zip(shown, feature_colours(maps), strict=True):
        tiles += [_tile(read_rgb(paths[name])), _tile(colours)]
    contact_sheet(folder / "features.png", tiles, SHEET_COLUMNS)


def _tile(image: RGB, side: int = 320) -> RGB:
    """Scale an image, by repeating pixels, into a square of `side` pixels on white."""
    scale = side / max(image.shape[:2])
    rows, columns = (np.arange(round(n * scale)) * n // round(n * scale) for n in image.shape[:2])
    tile = np.full((side, side, 3), 255, np.uint8)
    tile[: len(rows), : len(columns)] = image[rows][:, columns]
    return tile


if __name__ == "__main__":
    run(main)
