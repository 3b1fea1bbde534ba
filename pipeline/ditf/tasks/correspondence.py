"""Semantic correspondence: the target pixel of every keypoint, and PCK.

Protocol: SPair-71k (Min et al., arXiv 1908.10543).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, FiniteFloat, SerializeAsAny
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ditf.catalog import SCHEMAS, Catalog
from ditf.draw import draw_feature_colours, draw_matches
from ditf.errors import UserError
from ditf.features.descriptors import Descriptor
from ditf.features.store import FeatureStore, ImageFeatures
from ditf.images import RGB
from ditf.matchers import Matcher
from ditf.matchers.nearest import Nearest
from ditf.matching.bilinear import corners_of
from ditf.metrics.pck import PREDICTIONS, by_coverage, by_rule, pck
from ditf.settings import Distinct, Section, find_type, parse
from ditf.tasks import Metrics, Reading, Scores, Task, write_csv
from ditf.workers import cores, run

if TYPE_CHECKING:
    from distributed import Client

HEADLINE = 0.1  # the alpha of the first metric and of the drawings, where it is scored
QUERY_BYTES = 5 * 2**28  # of source descriptors held at once

NEAREST = Nearest(type="nearest")

Points = NDArray[Any]
Vectors = NDArray[np.float32]


class Alphas(Section):
    """alphas: a keypoint is correct within alpha times the pair's threshold."""

    alphas: Distinct[Annotated[FiniteFloat, Field(gt=0, le=1)]] = Field(default=[0.05, 0.1, 0.15])


def _matcher(given: Any) -> Matcher:
    """A matcher by its type alone, or by its type and settings."""
    if isinstance(given, Matcher):
        return given
    entry = {"type": given} if isinstance(given, str) else given
    if not isinstance(entry, dict) or "type" not in entry:
        raise ValueError("give the type of a matcher, such as nearest, or a mapping with its type and settings")
    try:
        kind = find_type(Matcher, "ditf.matchers", entry["type"])  # type: ignore[type-abstract]
        return parse(kind, entry, "")
    except UserError as error:
        raise ValueError("; ".join(str(error).split("\n"))) from None


class Matching(Reading):
    """matcher: the type of a matcher, or a mapping with its type and settings."""

    matcher: Annotated[SerializeAsAny[Matcher], BeforeValidator(_matcher)] = NEAREST


class Correspondence(Task):
    """Semantic correspondence by matching descriptors."""

    predict: Matching
    score: Alphas = Alphas()

    def make_predictions(self, store: FeatureStore, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        channels = self.predict.discarded(store)
        tables = [
            predict(store, catalog, self.predict.block, descriptor, channels, client, self.predict.matcher)
            for descriptor in self.predict.descriptors
        ]
        pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        alphas = self.score.alphas
        table = pq.read_table(predictions / "predictions.parquet")
        rows = evaluate(table, catalog, alphas)
        headline = HEADLINE if HEADLINE in alphas else alphas[0]
        write_csv(folder / "pck.csv", rows)
        shown = [row for row in rows if row["group"] == "category" and row["alpha"] == headline]
        others = [row for row in shown if row["rule"] != catalog.threshold]
        shown = [row for row in shown if row["rule"] == catalog.threshold]
        categories = [row for row in rows if row["group"] == "category" and row["rule"] == catalog.threshold]
        last = self.predict.descriptors[-1]
        write_csv(folder / "categories.csv", [row for row in shown if row["descriptor"] == last])
        write_csv(folder / "ablation.csv", [row for row in shown if row["value"] == "All"])
        write_csv(folder / "coverage.csv", by_coverage(table, alphas))
        metrics: Metrics = {}
        for row in categories:
            if row["value"] == "All":
                found = metrics.setdefault(row["descriptor"], {})
                found[f"point@{row['alpha']:g}"] = round(row["point"], 2)
                if row["alpha"] == headline:
                    found[f"image@{row['alpha']:g}"] = round(row["image"], 2)
        for row in others:
            if row["value"] == "All":
                metrics[row["descriptor"]][f"image@{row['alpha']:g} of {row['rule']}"] = round(row["image"], 2)
        return Scores(metrics, {row["value"]: row["point"] for row in shown if row["descriptor"] == last})

    def draw(
        self, store: FeatureStore, catalog: Catalog, read: Callable[[str], RGB], predictions: Path, folder: Path
    ) -> None:
        """The best, the median and the worst pair, and features as colours."""
        descriptor, alphas = self.predict.descriptors[-1], self.score.alphas
        table = pq.read_table(predictions / "predictions.parquet", filters=[("descriptor", "=", descriptor)])
        pairs = {row["pair"]: row for row in catalog.rows("pairs")}
        rows = {name: list(group) for name, group in itertools.groupby(table.to_pylist(), lambda row: row["pair"])}
        ranked = sorted(rows, key=lambda name: np.mean([row["error"] / row["threshold"] for row in rows[name]]))
        chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
        for title, name in chosen.items():
            source, target = (read(pairs[name][side]) for side in ("source", "target"))
            alpha = HEADLINE if HEADLINE in alphas else alphas[0]
            draw_matches(folder / f"matches_{title}.png", source, target, rows[name], alpha)
        images = dict.fromkeys(pairs[name][side] for name in chosen.values() for side in ("source", "target"))
        draw_feature_colours(folder / "features.png", read, store, list(images), self.predict, descriptor)


def evaluate(predictions: pa.Table, catalog: Catalog, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """PCK by every group, threshold rule and subset of keypoints that a catalog has; see `ditf.metrics.pck`.

    Returns:
        The rows of `pck`, each with its rule. A subset is a group of its own, with the value "All".
    """
    rows = [{**row, "rule": catalog.threshold} for row in pck(predictions, alphas)]
    if catalog.has("rules"):
        table = pa.Table.from_pylist(catalog.rows("rules"))
        for rule in pc.unique(table["rule"]).to_pylist():
            own = table.filter(pc.equal(table["rule"], rule))
            place = pc.index_in(predictions["pair"], own["pair"]).to_numpy()
            found = by_rule(predictions, *(own[f"unit_{axis}"].to_numpy()[place] for axis in "xy"))
            rows += [{**row, "rule": rule} for row in pck(found, alphas)]
    for name, members in catalog.subsets().items():
        keys = zip(predictions["pair"].to_pylist(), predictions["keypoint"].to_pylist(), strict=True)
        chosen = predictions.filter(pa.array([key in members for key in keys], pa.bool_()))
        if len(chosen):
            every = [row for row in pck(chosen, alphas) if row["value"] == "All"]
            rows += [{**row, "group": name, "rule": catalog.threshold} for row in every]
    return rows


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
    found, similarity, distance = np.empty((len(pair), 2)), np.empty(len(pair)), np.zeros(len(pair))
    described = (store, block, descriptor, channels)
    total = (len(np.unique(source)) + len(np.unique(target))) * (1 + matcher.back)
    with threadpool_limits(1, user_api="blas"), tqdm(desc=descriptor, total=total, unit="image", delay=2) as bar:

        def each(work: Any, fixed: tuple[Any, ...], images: NDArray[np.int64], values: NDArray[Any]) -> Iterator[Any]:
            """The work's results, image by image, with the rows of `values` that they are of."""
            places = dict(_by_image(store, images))
            tasks = ((name, (*described, *fixed, name, values[at])) for name, at in places.items())
            for name, result in run(client, work, tasks, cores()):
                yield places[name], result
                bar.update()

        # In the order of the sources, so that pairs of the same images are in the same batch.
        order = np.argsort(source, kind="stable")
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
