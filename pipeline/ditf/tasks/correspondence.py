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
from pydantic import Field, FiniteFloat
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ditf.catalog import SCHEMAS, Catalog
from ditf.draw import draw_feature_colours, draw_matches
from ditf.features.descriptors import Descriptor
from ditf.features.store import FeatureStore, ImageFeatures
from ditf.images import RGB
from ditf.matching.bilinear import corners_of
from ditf.matching.nearest import Target
from ditf.metrics.pck import PREDICTIONS, by_rule, pck
from ditf.settings import Distinct, Section
from ditf.tasks import Metrics, Reading, Scores, Task, write_csv
from ditf.workers import cores, run

if TYPE_CHECKING:
    from distributed import Client

HEADLINE = 0.1  # the alpha of the first metric and of the drawings, where it is scored
QUERY_BYTES = 5 * 2**28  # of source descriptors held at once

Points = NDArray[Any]
Vectors = NDArray[np.float32]


class Alphas(Section):
    """alphas: a keypoint is correct within alpha times the pair's threshold."""

    alphas: Distinct[Annotated[FiniteFloat, Field(gt=0, le=1)]] = Field(default=[0.05, 0.1, 0.15])


class Correspondence(Task):
    """Semantic correspondence by nearest neighbours of descriptors."""

    predict: Reading
    score: Alphas = Alphas()

    def make_predictions(self, store: FeatureStore, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        channels = self.predict.discarded(store)
        tables = [
            predict(store, catalog, self.predict.block, descriptor, channels, client)
            for descriptor in self.predict.descriptors
        ]
        pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        alphas = self.score.alphas
        rows = evaluate(pq.read_table(predictions / "predictions.parquet"), catalog, alphas)
        headline = HEADLINE if HEADLINE in alphas else alphas[0]
        write_csv(folder / "pck.csv", rows)
        shown = [row for row in rows if row["group"] == "category" and row["alpha"] == headline]
        others = [row for row in shown if row["rule"] != catalog.threshold]
        shown = [row for row in shown if row["rule"] == catalog.threshold]
        categories = [row for row in rows if row["group"] == "category" and row["rule"] == catalog.threshold]
        last = self.predict.descriptors[-1]
        write_csv(folder / "categories.csv", [row for row in shown if row["descriptor"] == last])
        write_csv(folder / "ablation.csv", [row for row in shown if row["value"] == "All"])
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
) -> pa.Table:
    """Match every keypoint of every pair; each image is read once as a source and once as a target per batch of pairs.

    Args:
        store: the features.
        catalog: with images, pairs and keypoints.
        block, descriptor, channels: which descriptors are matched; see `ditf.features.descriptors`.
        client: of the workers that match; None for this process.

    Returns:
        A table with the columns of `PREDICTIONS` and those by which the catalog groups pairs, in the catalog's order.
    """
    pairs, points = pa.Table.from_pylist(catalog.rows("pairs")), pa.Table.from_pylist(catalog.rows("keypoints"))
    pair = pc.index_in(points["pair"], pairs["pair"]).to_numpy()
    source, target = (_positions(store, pairs[side])[pair] for side in ("source", "target"))
    clicked = np.stack([points[f"source_{axis}"].to_numpy() for axis in "xy"], 1)
    found, similarity = np.empty((len(pair), 2), np.int64), np.empty(len(pair))
    described = (store, block, descriptor, channels)
    total = len(np.unique(source)) + len(np.unique(target))
    with threadpool_limits(1, user_api="blas"), tqdm(desc=descriptor, total=total, unit="image", delay=2) as bar:
        # In the order of the sources, so that pairs of the same images are in the same batch.
        order = np.argsort(source, kind="stable")
        count = max(1, QUERY_BYTES // (4 * store.channels(block)))
        for start in range(0, len(order), count):
            batch = order[start : start + count]
            queries = np.empty((len(batch), store.channels(block)), np.float32)
            tasks = ((name, (*described, name, clicked[batch[at]])) for name, at in _by_image(store, source[batch]))
            places = dict(_by_image(store, source[batch]))
            for name, vectors in run(client, describe_points, tasks, cores()):
                queries[places[name]] = vectors
                bar.update()
            tasks = ((name, (*described, name, queries[at])) for name, at in _by_image(store, target[batch]))
            places = dict(_by_image(store, target[batch]))
            for name, (pixels, values) in run(client, match_target, tasks, cores()):
                found[batch[places[name]]], similarity[batch[places[name]]] = pixels, values
                bar.update()
    truth = np.stack([points[f"target_{axis}"].to_numpy() for axis in "xy"], 1)
    columns = {name: pairs[name].take(pair) for name in ("category", "threshold", *catalog.groups()[1:])}
    columns |= {name: points[name] for name in SCHEMAS["keypoints"].names}
    columns |= {"predicted_x": found[:, 0], "predicted_y": found[:, 1], "similarity": similarity}
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
    image: str,
    queries: Vectors,
) -> tuple[Points, NDArray[np.float64]]:
    """The best pixels (x, y) of a target image, [k, 2], and their similarities, [k], for queries [k, C]."""
    features = store.features(block, image)
    return Target(features.descriptors(descriptor, channels), features.grid, features.size).match(queries)


def _positions(store: FeatureStore, names: pa.ChunkedArray) -> NDArray[np.int64]:
    """The positions in the store of images by their ids."""
    return np.array([store.index(name) for name in names.to_pylist()], np.int64)


def _by_image(store: FeatureStore, positions: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[Any]]]:
    """(id, indices into `positions`) of each image, in the order of the store."""
    order = np.argsort(positions, kind="stable")
    images, starts = np.unique(positions[order], return_index=True)
    yield from zip((store.ids[i] for i in images), np.split(order, starts[1:]), strict=True)
