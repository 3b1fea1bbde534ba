"""Matching the keypoints of pairs of images from a store: each image is read as seldom as memory allows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ditf.data.catalog import SCHEMAS, Catalog
from ditf.features.bilinear import corners_of
from ditf.features.store import FeatureStore, ImageFeatures
from ditf.matching.matchers.base import Matcher
from ditf.matching.matchers.nearest import Nearest
from ditf.metrics.pck import PREDICTIONS
from ditf.types import Descriptor
from ditf.workers import cores, run

if TYPE_CHECKING:
    from distributed import Client

QUERY_BYTES = 5 * 2**28  # of source descriptors held at once
NEAREST = Nearest(type="nearest")

Points = NDArray[Any]
Described = tuple[FeatureStore, int, Descriptor, Sequence[int] | None]  # which descriptors, of which features
Matches = tuple[Points, NDArray[np.float64], NDArray[np.float64]]  # places [n, 2], similarities [n], distances back [n]
Vectors = NDArray[np.float32]


def predict(
    store: FeatureStore,
    catalog: Catalog,
    block: int,
    descriptor: Descriptor,
    channels: Sequence[int] | None = None,
    client: "Client | None" = None,
    matcher: Matcher = NEAREST,
) -> pa.Table:
    """Match every keypoint of every pair; each image is read once as a source and once as a target per batch of pairs.

    Args:
        store: the features.
        catalog: with images, pairs and keypoints.
        block, descriptor, channels: which descriptors are matched; see `ditf.features.descriptors`.
        client: of the workers that match; None for this process.
        matcher: how.

    Returns:
        A table with the columns of `PREDICTIONS` and those by which the catalog groups pairs, in the catalog's order.
    """
    pairs, points = pa.Table.from_pylist(catalog.rows("pairs")), pa.Table.from_pylist(catalog.rows("keypoints"))
    pair = pc.index_in(points["pair"], pairs["pair"]).to_numpy()
    source, target = (_positions(store, pairs[side])[pair] for side in ("source", "target"))
    clicked = np.stack([points[f"source_{axis}"].to_numpy() for axis in "xy"], 1)
    described = (store, block, descriptor, channels)
    match = _match_pairs if store.pairwise else _match_images
    found, similarity, distance = match(described, matcher, client, source, target, clicked)
    truth = np.stack([points[f"target_{axis}"].to_numpy() for axis in "xy"], 1)
    columns = {name: pairs[name].take(pair) for name in ("category", "threshold", *catalog.groups()[1:])}
    columns |= {name: points[name] for name in SCHEMAS["keypoints"].names}
    columns |= {"predicted_x": found[:, 0], "predicted_y": found[:, 1], "similarity": similarity}
    columns |= {"confidence": matcher.confidence(similarity, distance)}
    columns |= {"error": np.linalg.norm(found - truth, axis=1), "descriptor": [descriptor] * len(pair)}
    names = [*PREDICTIONS.names, *catalog.groups()[1:]]
    table = pa.table({name: columns[name] for name in names})
    own = [pa.field(name, table.schema.field(name).type) for name in names[len(PREDICTIONS) :]]
    return table.cast(pa.schema([*PREDICTIONS, *own]))


def _no_matches(count: int) -> Matches:
    return np.empty((count, 2)), np.empty(count), np.zeros(count)


def _match_images(
    described: Described,
    matcher: Matcher,
    client: "Client | None",
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    clicked: Points,
) -> Matches:
    """Match keypoints image by image; see `predict`."""
    (store, block, descriptor, _), (found, similarity, distance) = described, _no_matches(len(clicked))
    total = (len(np.unique(source)) + len(np.unique(target))) * (1 + matcher.back)
    with threadpool_limits(1, user_api="blas"), tqdm(desc=descriptor, total=total, unit="image", delay=2) as bar:

        def each(work: Any, fixed: tuple[Any, ...], images: NDArray[np.int64], values: NDArray[Any]) -> Iterator[Any]:
            """The work's results, image by image, with the rows of `values` that they are of."""
            places = dict(_by_image(store, images))
            tasks = ((name, (*described, *fixed, name, values[at])) for name, at in places.items())
            for name, result in run(client, work, tasks, cores()):
                yield places[name], result
                bar.update()

        # In the order of the targets: preparing one takes longer than describing points of a source again.
        order = np.argsort(target, kind="stable")
        count = max(1, QUERY_BYTES // (4 * store.channels(block)))
        for start in range(0, len(order), count):
            batch = order[start : start + count]
            queries = np.empty((len(batch), store.channels(block)), np.float32)
            for at, vectors in each(describe_points, (), source[batch], clicked[batch]):
                queries[at] = vectors
            for at, (places, values) in each(match_target, (matcher,), target[batch], queries):
                found[batch[at]], similarity[batch[at]] = places, values
            if matcher.back:
                for at, vectors in each(describe_points, (), target[batch], found[batch]):
                    queries[at] = vectors
                for at, (places, _) in each(match_target, (matcher,), source[batch], queries):
                    rows = batch[at]
                    token = store.sizes[source[rows]] / store.grids(block)[source[rows], ::-1]
                    distance[rows] = np.linalg.norm((places - clicked[rows]) / token, axis=1)
    return found, similarity, distance


def _match_pairs(
    described: Described,
    matcher: Matcher,
    client: "Client | None",
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    clicked: Points,
) -> Matches:
    """The same, pair by pair, for features that depend on the pair."""
    (store, _, descriptor, _), (found, similarity, distance) = described, _no_matches(len(clicked))
    both = np.stack([source, target], 1)
    pairs, member = np.unique(both, axis=0, return_inverse=True)
    rows = {f"{a}-{b}": np.flatnonzero(member == n) for n, (a, b) in enumerate(pairs)}
    names = {f"{a}-{b}": (store.ids[a], store.ids[b]) for a, b in pairs}
    tasks = ((name, (*described, matcher, *names[name], clicked[at])) for name, at in rows.items())
    with tqdm(desc=descriptor, total=len(rows), unit="pair", delay=2) as bar:
        for name, (places, values, back) in run(client, match_pair, tasks, cores()):
            found[rows[name]], similarity[rows[name]], distance[rows[name]] = places, values, back
            bar.update()
    return found, similarity, distance


def match_pair(
    store: FeatureStore,
    block: int,
    descriptor: Descriptor,
    channels: Sequence[int] | None,
    matcher: Matcher,
    source: str,
    target: str,
    points: Points,
) -> tuple[Points, NDArray[np.float64], NDArray[np.float64]]:
    """The points of a target, [k, 2], their similarities, [k], and the tokens by which each, matched back, is off."""
    images = store.pair(block, source, target)
    maps = [image.descriptors(descriptor, channels) for image in images]
    found, similarity = matcher.match(
        descriptors_at(images[0], points, descriptor, channels), maps[1], images[1].grid, images[1].size
    )
    distance = np.zeros(len(points))
    if matcher.back:
        again = descriptors_at(images[1], found, descriptor, channels)
        back, _ = matcher.match(again, maps[0], images[0].grid, images[0].size)
        token = np.array(images[0].size) / images[0].grid[::-1]
        distance = np.linalg.norm((back - points) / token, axis=1)
    return found, similarity, distance


def describe_points(
    store: FeatureStore,
    block: int,
    descriptor: Descriptor,
    channels: Sequence[int] | None,
    image: str,
    points: Points,
) -> Vectors:
    """Descriptors of an image of `store` at pixels (x, y) [k, 2], [k, C]."""
    return descriptors_at(store.features(block, image), points, descriptor, channels)


def descriptors_at(
    features: ImageFeatures, points: Points, descriptor: Descriptor | None = None, channels: Sequence[int] | None = None
) -> Vectors:
    """Descriptors [k, C] at pixels (x, y) [k, 2] inside the image: only the tokens around them are described."""
    corners, weights = corners_of(features.grid, features.size, points)
    needed, place = np.unique(corners, return_inverse=True)
    tokens = features.descriptors(descriptor, channels, needed)
    return np.einsum("kfc,kf->kc", tokens[place.reshape(corners.shape)], weights.astype(np.float32))


def match_target(
    store: FeatureStore,
    block: int,
    descriptor: Descriptor,
    channels: Sequence[int] | None,
    matcher: Matcher,
    image: str,
    queries: Vectors,
) -> tuple[Points, NDArray[np.float64]]:
    """The points (x, y) of a target image, [k, 2], and their similarities, [k], for queries [k, C]."""
    features = store.features(block, image)
    return matcher.match(queries, features.descriptors(descriptor, channels), features.grid, features.size)


def _positions(store: FeatureStore, names: pa.ChunkedArray) -> NDArray[np.int64]:
    """The positions in the store of images by their ids."""
    return np.array([store.index(name) for name in names.to_pylist()], np.int64)


def _by_image(store: FeatureStore, positions: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[Any]]]:
    """(id, indices into `positions`) of each image, in the order of the store."""
    order = np.argsort(positions, kind="stable")
    images, starts = np.unique(positions[order], return_index=True)
    yield from zip((store.ids[i] for i in images), np.split(order, starts[1:]), strict=True)
