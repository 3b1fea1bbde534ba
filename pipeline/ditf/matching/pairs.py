"""Match the keypoints of all pairs of a catalog. Each image is read from the store as rarely as memory allows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ditf.data.catalog import SCHEMAS, Catalog
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.matching.matchers.base import Matcher
from ditf.matching.matchers.nearest import Nearest
from ditf.metrics.pck import PREDICTIONS
from ditf.types import Descriptor
from ditf.workers import cores, run

if TYPE_CHECKING:
    from distributed import Client

QUERY_BYTES = 5 * 2**28  # memory for the descriptors of source points
NEAREST = Nearest(type="nearest")

Points = NDArray[Any]
Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MatchingJob:
    """Features to match, and the matcher.

    Attributes:
        store: Features of the images.
        block: Block of the model.
        descriptor: Descriptor that is matched; see `ditf.features.descriptors`.
        channels: Massive channels, for descriptors with "+discard".
        matcher: Matcher that finds the points in target images.
    """

    store: FeatureReader
    block: int
    descriptor: Descriptor
    channels: Sequence[int] | None = None
    matcher: Matcher = NEAREST

    def describe(self, features: ImageFeatures, points: Points) -> Vectors:
        """Compute the descriptors at pixels of an image.

        Args:
            features: Features of the image.
            points: Pixels (x, y), [k, 2].

        Returns:
            Descriptors, float32 [k, C].
        """
        return features.descriptors_at(points, self.descriptor, self.channels)

    def match(self, queries: Vectors, target: ImageFeatures) -> tuple[Points, NDArray[np.float64]]:
        """Find the matches of queries in a target image.

        Args:
            queries: Descriptors, float32 [k, C].
            target: Features of the target image.

        Returns:
            Matches (x, y) in pixels, [k, 2], and their cosine similarities, [k].
        """
        tokens = target.descriptors(self.descriptor, self.channels)
        return self.matcher.match(queries, tokens, target.grid, target.size)


@dataclass(frozen=True)
class KeypointPairs:
    """Source points with their source and target images.

    Attributes:
        source: Position of the source image in the store, [n].
        target: Position of the target image in the store, [n].
        points: Pixels (x, y) of the source image, [n, 2].
    """

    source: Indices
    target: Indices
    points: Points


@dataclass(frozen=True)
class Matches:
    """Matches of source points.

    Attributes:
        points: Pixels (x, y) of the target image, [n, 2].
        similarity: Cosine similarity of each match, [n].
        cycle_distance: Distance in tokens between each source point and its match matched back, [n]. It is 0 unless the
            matcher checks cycles.
    """

    points: NDArray[np.float64]
    similarity: NDArray[np.float64]
    cycle_distance: NDArray[np.float64]

    @classmethod
    def empty(cls, count: int) -> "Matches":
        """Return arrays for `count` matches, to be filled."""
        return cls(np.empty((count, 2)), np.empty(count), np.zeros(count))


def predict(job: MatchingJob, catalog: Catalog, client: "Client | None" = None) -> pa.Table:
    """Match every keypoint of every pair.

    Args:
        job: Features to match, and the matcher.
        catalog: Catalog with images, pairs and keypoints.
        client: Dask client of the workers that match. None matches in the current process.

    Returns:
        A table with a row per keypoint, in the order of the catalog. It has the columns of `PREDICTIONS`, and the
        columns of the catalog that group pairs.
    """
    pairs, keypoints = (pa.Table.from_pylist(catalog.rows(name)) for name in ("pairs", "keypoints"))
    pair = pc.index_in(keypoints["pair"], pairs["pair"]).to_numpy()
    positions = {
        side: np.array([job.store.index(image) for image in pairs[side].to_pylist()], np.int64)[pair]
        for side in ("source", "target")
    }
    points = np.stack([keypoints[f"source_{axis}"].to_numpy() for axis in "xy"], 1)
    match: Callable[..., Matches] = _match_pair_by_pair if job.store.pairwise else _match_image_by_image
    matches = match(job, KeypointPairs(**positions, points=points), client)
    truth = np.stack([keypoints[f"target_{axis}"].to_numpy() for axis in "xy"], 1)
    groups = catalog.groups()[1:]
    columns = {name: pairs[name].take(pair) for name in ("category", "threshold", *groups)}
    columns |= {name: keypoints[name] for name in SCHEMAS["keypoints"].names}
    columns |= {
        "descriptor": [job.descriptor] * len(pair),
        "predicted_x": matches.points[:, 0],
        "predicted_y": matches.points[:, 1],
        "similarity": matches.similarity,
        "confidence": job.matcher.confidence(matches.similarity, matches.cycle_distance),
        "error": np.linalg.norm(matches.points - truth, axis=1),
    }
    table = pa.table({name: columns[name] for name in (*PREDICTIONS.names, *groups)})
    group_fields = [pa.field(name, table.schema.field(name).type) for name in groups]
    return table.cast(pa.schema([*PREDICTIONS, *group_fields]))


def _match_image_by_image(job: MatchingJob, pairs: KeypointPairs, client: "Client | None") -> Matches:
    """Match the points of all pairs, searching all queries of a target image together.

    Args:
        job: Features to match, and the matcher.
        pairs: Points to match.
        client: Dask client of the workers that match. None matches in the current process.

    Returns:
        Matches in the order of the points.
    """
    store, matches = job.store, Matches.empty(len(pairs.points))
    total = (len(np.unique(pairs.source)) + len(np.unique(pairs.target))) * (1 + job.matcher.check_cycle)
    with threadpool_limits(1, user_api="blas"), tqdm(desc=job.descriptor, total=total, unit="image", delay=2) as bar:

        def for_each_image(work: Callable[..., Any], images: Indices, values: NDArray[Any]) -> Iterator[Any]:
            """Call `work(job, image, values)` for each image with its rows of `values`.

            Yields:
                The indices of these rows, and the result.
            """
            rows = _rows_by_image(store, images)
            tasks = ((image, (job, image, values[rows[image]])) for image in rows)
            for image, result in run(client, work, tasks, cores()):
                yield rows[image], result
                bar.update()

        # In the order of the targets: preparing a target takes longer than describing the points of a source again.
        order = np.argsort(pairs.target, kind="stable")
        count = max(1, QUERY_BYTES // (4 * store.channels(job.block)))
        for start in range(0, len(order), count):
            batch = order[start : start + count]
            source, target, points = pairs.source[batch], pairs.target[batch], pairs.points[batch]
            queries = np.empty((len(batch), store.channels(job.block)), np.float32)
            for rows, vectors in for_each_image(_describe_points, source, points):
                queries[rows] = vectors
            for rows, (matched, similarity) in for_each_image(_match_queries, target, queries):
                matches.points[batch[rows]], matches.similarity[batch[rows]] = matched, similarity
            if job.matcher.check_cycle:
                for rows, vectors in for_each_image(_describe_points, target, matches.points[batch]):
                    queries[rows] = vectors
                for rows, (returned, _) in for_each_image(_match_queries, source, queries):
                    images = source[rows]
                    token_size = store.sizes[images] / store.grids(job.block)[images, ::-1]
                    distance = np.linalg.norm((returned - points[rows]) / token_size, axis=1)
                    matches.cycle_distance[batch[rows]] = distance
    return matches


def _match_pair_by_pair(job: MatchingJob, pairs: KeypointPairs, client: "Client | None") -> Matches:
    """Match the points of each pair separately, for features that depend on the pair.

    Arguments and result are those of `_match_image_by_image`.
    """
    store, matches = job.store, Matches.empty(len(pairs.points))
    images, pair = np.unique(np.stack([pairs.source, pairs.target], 1), axis=0, return_inverse=True)
    names = {f"{source}-{target}": (store.ids[source], store.ids[target]) for source, target in images}
    rows = {name: np.flatnonzero(pair == number) for number, name in enumerate(names)}
    tasks = ((name, (job, *names[name], pairs.points[rows[name]])) for name in names)
    with threadpool_limits(1, user_api="blas"), tqdm(desc=job.descriptor, total=len(rows), unit="pair", delay=2) as bar:
        for name, result in run(client, _match_pair, tasks, cores()):
            matches.points[rows[name]], matches.similarity[rows[name]] = result.points, result.similarity
            matches.cycle_distance[rows[name]] = result.cycle_distance
            bar.update()
    return matches


def _describe_points(job: MatchingJob, image: str, points: Points) -> Vectors:
    """Read an image and return the descriptors at points (x, y), float32 [k, C]."""
    return job.describe(job.store.features(job.block, image), points)


def _match_queries(job: MatchingJob, image: str, queries: Vectors) -> tuple[Points, NDArray[np.float64]]:
    """Read an image and match queries, float32 [k, C], in it. The result is that of `MatchingJob.match`."""
    return job.match(queries, job.store.features(job.block, image))


def _match_pair(job: MatchingJob, source: str, target: str, points: Points) -> Matches:
    """Match points (x, y) of one image, [k, 2], in another. The images are given by their ids."""
    source_features, target_features = job.store.pair(job.block, source, target)
    matched, similarity = job.match(job.describe(source_features, points), target_features)
    cycle_distance = np.zeros(len(points))
    if job.matcher.check_cycle:
        returned, _ = job.match(job.describe(target_features, matched), source_features)
        token_size = np.array(source_features.size) / source_features.grid[::-1]
        cycle_distance = np.linalg.norm((returned - points) / token_size, axis=1)
    return Matches(matched, similarity, cycle_distance)


def _rows_by_image(store: FeatureReader, positions: Indices) -> dict[str, Indices]:
    """Group rows by their image.

    Args:
        store: Features of the images.
        positions: Position in the store of the image of each row, [n].

    Returns:
        Indices of the rows of each image by its id, in the order of the store.
    """
    order = np.argsort(positions, kind="stable")
    images, starts = np.unique(positions[order], return_index=True)
    return dict(zip((store.ids[image] for image in images), np.split(order, starts[1:]), strict=True))
