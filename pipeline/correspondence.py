"""Predictions of all keypoints of a benchmark, from a feature store: each image is read at most twice."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.bilinear import corners_of
from pipeline.descriptors import Descriptor, describe
from pipeline.engine import HERE, Engine
from pipeline.matching import Target
from pipeline.pck import GRADES, PREDICTIONS
from pipeline.store import FeatureStore

Row = dict[str, Any]


def predict(
    store: FeatureStore,
    tables: dict[str, list[Row]],
    block: int,
    descriptor: Descriptor,
    channels: Sequence[int],
    engine: Engine = HERE,
) -> pa.Table:
    """Match every keypoint of every pair.

    Args:
        store: the features.
        tables: rows of the catalog's images, pairs and keypoints.
        block, descriptor, channels: which descriptors to match; see `pipeline.descriptors`.
        engine: what it runs on.

    Returns:
        A table with the schema `pipeline.pck.PREDICTIONS`, in the order of the pairs.
    """
    sizes = {row["id"]: (row["width"], row["height"]) for row in tables["images"]}
    pairs = tables["pairs"]
    keypoints: dict[str, list[Row]] = defaultdict(list)
    for row in tables["keypoints"]:
        keypoints[row["pair"]].append(row)
    by_source, by_target = defaultdict(list), defaultdict(list)
    for number, pair in enumerate(pairs):
        by_source[pair["source"]].append(number)
        by_target[pair["target"]].append(number)

    queries: dict[int, NDArray[np.float32]] = {}
    with tqdm(desc=descriptor, total=len(by_source) + len(by_target), unit="image", delay=2) as bar:
        sources, targets = (sorted(images, key=store.index) for images in (by_source, by_target))  # as the shards lie
        asked = [
            np.concatenate([_points(keypoints[pairs[n]["pair"]], "source") for n in by_source[i]]) for i in sources
        ]
        tasks = (
            (image, (store, block, image, sizes[image], points, descriptor, channels))
            for image, points in zip(sources, asked, strict=True)
        )
        for image, found in zip(sources, engine.map(descriptors_at, tasks), strict=True):
            counts = [len(keypoints[pairs[n]["pair"]]) for n in by_source[image]]
            queries |= zip(by_source[image], np.split(found, np.cumsum(counts)[:-1]), strict=True)
            bar.update()
        results: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        searches = (
            (
                image,
                (store, block, image, sizes[image], [queries.pop(n) for n in by_target[image]], descriptor, channels),
            )
            for image in targets
        )
        for image, matched in zip(targets, engine.map(_match, searches), strict=True):
            results |= zip(by_target[image], matched, strict=True)
            bar.update()
    rows = [
        row
        for number, pair in enumerate(pairs)
        for row in _rows(descriptor, pair, keypoints[pair["pair"]], *results[number])
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _match(
    store: FeatureStore,
    block: int,
    image: str,
    size: tuple[int, int],
    queries: list[NDArray[np.float32]],
    descriptor: Descriptor,
    channels: Sequence[int],
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The best pixels (x, y) of a target image and their similarities, for each array of queries [k, C]."""
    target = Target(store.descriptors(block, image, descriptor, channels), store.grid(image), size)
    pixels, similarity = target.match(np.concatenate(queries))
    ends = np.cumsum([len(q) for q in queries])[:-1]
    return list(zip(np.split(pixels, ends), np.split(similarity, ends), strict=True))


def _points(keypoints: list[Row], side: str) -> NDArray[np.int64]:
    return np.array([[row[f"{side}_x"], row[f"{side}_y"]] for row in keypoints], np.int64)


def descriptors_at(
    store: FeatureStore,
    block: int,
    image: str,
    size: tuple[int, int],
    points: NDArray[np.int64],
    descriptor: Descriptor,
    channels: Sequence[int],
) -> NDArray[np.float32]:
    """Descriptors of an image of `store` at pixels, [k, C]: only the tokens around them are described.

    Args:
        store, block, image: whose features.
        size: (width, height) of the image in pixels.
        points: pixels (x, y) inside it, [k, 2].
        descriptor, channels: see `pipeline.descriptors`.
    """
    features = store.features(block, image)
    corners, weights = corners_of(store.grid(image), size, points)
    needed, place = np.unique(corners, return_inverse=True)
    tokens = describe(features.tokens[needed], features.modulation, descriptor, channels)
    return np.einsum("kfc,kf->kc", tokens[place.reshape(corners.shape)], weights.astype(np.float32))


def _rows(
    descriptor: str,
    pair: Row,
    keypoints: list[Row],
    pixels: NDArray[np.int64],
    similarity: NDArray[np.float64],
) -> list[Row]:
    x1, y1, x2, y2 = pair["target_box"]
    error = np.linalg.norm(pixels - _points(keypoints, "target"), axis=1)
    shared = {name: pair[name] for name in ("pair", "category", *GRADES)}
    shared |= {"descriptor": descriptor, "extent": max(x2 - x1, y2 - y1)}
    points = ("keypoint", "source_x", "source_y", "target_x", "target_y")
    return [
        {
            **shared,
            **{name: keypoint[name] for name in points},
            "predicted_x": x,
            "predicted_y": y,
            "similarity": float(s),
            "error": float(e),
        }
        for keypoint, (x, y), s, e in zip(keypoints, pixels.tolist(), similarity, error, strict=True)
    ]
