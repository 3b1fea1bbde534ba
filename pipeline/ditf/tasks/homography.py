"""Homography estimation: match keypoints of two images of a plane by mutual nearest neighbours of descriptors.

Protocol: DIFT (Tang et al., arXiv 2306.03881) on HPatches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from tqdm import tqdm

from ditf.data.catalog import Catalog
from ditf.data.tables import read_table, write_table
from ditf.drawing import charts
from ditf.drawing.features import draw_feature_colours
from ditf.drawing.figures import spread
from ditf.drawing.matches import NamedImage, draw_matches
from ditf.features.descriptors import unit
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.metrics import intervals
from ditf.metrics.homography import corner_error, estimate, reprojection_errors
from ditf.metrics.protocols import HOMOGRAPHIES, Protocol
from ditf.settings import Distinct, Settings
from ditf.tasks.base import DescriptorSettings, DrawingInputs, Metrics, Scores, Task
from ditf.types import Descriptor
from ditf.workers import cores, run

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

SHOWN_MATCHES = 60  # matches drawn of a pair
SHOWN_PIXELS = 3.0  # largest error of a match that is drawn as correct
MATCHES = pa.schema(
    [
        ("descriptor", pa.string()),
        ("pair", pa.string()),
        *((name, pa.float64()) for name in ("source_x", "source_y", "target_x", "target_y", "similarity")),
    ]
)
Points = NDArray[np.float64]
Vectors = NDArray[np.float32]
Sampling = Literal["pixels", "published"]
Metric = Literal["cosine", "l2"]


class HomographySettings(DescriptorSettings):
    """Settings of the descriptors at keypoints and of their nearest neighbours.

    Attributes:
        metric: Measure for nearest neighbours: "cosine" for cosine similarity, or "l2" for Euclidean distance.
        sampling: Where descriptors are sampled: "pixels" for the exact position of each keypoint, or "published" for
            the coordinates in DIFT's code, which are half a pixel off.
    """

    metric: Metric = "cosine"
    sampling: Sampling = "pixels"


class ThresholdSettings(Settings):
    """Thresholds of the metrics, and the estimators of the homographies.

    Attributes:
        corners: Thresholds in pixels. A homography is correct if its mean corner error is at most a threshold.
        matches: Thresholds in pixels. A match is correct if its reprojection error is at most a threshold.
        methods: Estimators of the homography: "lmeds" for least median of squares, or "ransac".
    """

    corners: Distinct[Annotated[FiniteFloat, Field(gt=0)]] = Field(default=[1, 3, 5])
    matches: Distinct[Annotated[FiniteFloat, Field(gt=0)]] = Field(default=list(range(1, 11)))
    methods: Distinct[Literal["lmeds", "ransac"]] = Field(default=["lmeds", "ransac"])


class Homography(Task):
    """Homography estimation from matches of keypoints.

    Attributes:
        predict: Settings of the descriptors and of their nearest neighbours.
        score: Thresholds and estimators.
    """

    predict: HomographySettings
    score: ThresholdSettings = ThresholdSettings()

    @property
    def headline(self) -> str:
        return f"{self.score.methods[0]}@{self.score.corners[-1]:g}"

    def protocol(self, catalog: Catalog) -> Protocol:
        return HOMOGRAPHIES

    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        channels, points = self.predict.discarded(store), points_of(catalog)
        pairs, rows = catalog.rows("homographies"), []
        for descriptor in self.predict.descriptors:
            job = HomographyJob(
                store, self.predict.block, descriptor, channels, self.predict.sampling, self.predict.metric
            )
            tasks = (
                (p["pair"], (job, p["source"], p["target"], points[p["source"]], points[p["target"]])) for p in pairs
            )
            results = run(client, match_keypoints, tasks, cores())
            matches = dict(tqdm(results, descriptor, len(pairs), unit="pair", delay=2))
            for pair in pairs:
                for source, target, similarity in zip(*matches[pair["pair"]], strict=True):
                    rows.append((descriptor, pair["pair"], *source.tolist(), *target.tolist(), float(similarity)))
        columns = [dict(zip(MATCHES.names, row, strict=True)) for row in rows]
        pq.write_table(pa.Table.from_pylist(columns, schema=MATCHES), folder / "matches.parquet")

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        sizes = {item: (row["width"], row["height"]) for item, row in catalog.images().items()}
        pairs, metrics, bars = catalog.rows("homographies"), Metrics(), dict[str, float]()
        homography_rows, match_rows, pair_rows = [], [], []
        units: list[intervals.Contribution] = []
        for descriptor, matches in _by_pair(predictions / "matches.parquet", self.predict.descriptors).items():
            errors: dict[str, list[float]] = {method: [] for method in self.score.methods}
            accuracies = np.zeros((len(pairs), len(self.score.matches)))
            for number, pair in enumerate(pairs):
                truth = np.array(pair["matrix"]).reshape(3, 3)
                source, target = matches.get(pair["pair"], (np.empty((0, 2)),) * 2)
                match_errors = reprojection_errors(source, target, truth)
                if len(match_errors):
                    accuracies[number] = [(match_errors <= pixels).mean() for pixels in self.score.matches]
                row: dict[str, Any] = {"descriptor": descriptor, "pair": pair["pair"], "matches": len(match_errors)}
                for method, corner_errors in errors.items():
                    corner_errors.append(corner_error(estimate(source, target, method), truth, sizes[pair["source"]]))
                    row[f"{method} error"] = corner_errors[-1] if math.isfinite(corner_errors[-1]) else ""
                pair_rows.append(row)
            kinds = np.array([pair["category"] for pair in pairs])
            groups = {"overall": np.ones(len(pairs), bool), **{kind: kinds == kind for kind in sorted({*kinds})}}
            scores = metrics.setdefault(descriptor, {})
            units += [
                (descriptor, f"{method}@{pixels:g}", pair["pair"], "", 100.0 * (error <= pixels), 1.0)
                for method, corner_errors in errors.items()
                for pixels in self.score.corners
                for pair, error in zip(pairs, corner_errors, strict=True)
            ]
            for kind, chosen in groups.items():
                for column, pixels in enumerate(self.score.matches):
                    value = 100 * float(accuracies[chosen, column].mean())
                    match_rows.append({"descriptor": descriptor, "kind": kind, "pixels": pixels, "accuracy": value})
                for method, corner_errors in errors.items():
                    for pixels in self.score.corners:
                        value = 100 * float((np.array(corner_errors)[chosen] <= pixels).mean())
                        row = {"descriptor": descriptor, "kind": kind, "method": method}
                        homography_rows.append({**row, "pixels": pixels, "accuracy": value})
                        if kind == "overall":
                            scores[f"{method}@{pixels:g}"] = round(value, 2)
                        if pixels == self.score.corners[-1] and method == self.score.methods[0]:
                            bars[kind] = value
        write_table(folder / "accuracy.csv", homography_rows)
        write_table(folder / "matching_accuracy.csv", match_rows)
        write_table(folder / "pairs.csv", pair_rows)
        intervals.write_units(folder, units)
        return Scores(metrics, bars)

    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Matches of the best, the median and the worst pair, and features as colours."""
        descriptor = self.predict.descriptors[-1]
        matches = _by_pair(predicted.folder / "matches.parquet", [descriptor])[descriptor]
        pairs = {pair["pair"]: pair for pair in predicted.catalog.rows("homographies") if pair["pair"] in matches}
        off = {n: reprojection_errors(*matches[n], np.array(p["matrix"]).reshape(3, 3)) for n, p in pairs.items()}
        ranked = sorted(pairs, key=lambda name: -(off[name] <= SHOWN_PIXELS).mean())
        if not ranked:
            return
        for title, name in {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}.items():
            self.draw_unit(folder / f"matches_{title}.png", predicted, descriptor, name)
        names = list(
            dict.fromkeys(pairs[name][side] for name in (ranked[0], ranked[-1]) for side in ("source", "target"))
        )
        draw_feature_colours(folder / "features.png", predicted.read, store, names, self.predict, descriptor)

    def draw_unit(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, name: str) -> None:
        """Matches of a pair, 60 at most."""
        pair = next(row for row in predicted.catalog.rows("homographies") if row["pair"] == name)
        matches = _by_pair(predicted.folder / "matches.parquet", [descriptor])[descriptor]
        source, target = matches.get(name, (np.empty((0, 2)),) * 2)
        off = reprojection_errors(source, target, np.array(pair["matrix"]).reshape(3, 3))
        rows = [
            {"error": off[n], "threshold": 1.0, "source_x": source[n, 0], "source_y": source[n, 1]}
            | {
                f"{kind}_{axis}": target[n, place]
                for kind in ("predicted", "target")
                for place, axis in enumerate("xy")
            }
            for n in spread(range(len(source)), SHOWN_MATCHES)
        ]
        images = [NamedImage(pair[side], predicted.read(pair[side])) for side in ("source", "target")]
        criterion = f"within {SHOWN_PIXELS:g} pixels ({len(rows)} of {len(source)} matches are drawn)"
        draw_matches(path, images[0], images[1], rows, SHOWN_PIXELS, criterion)

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """Mean matching accuracy over the threshold, by descriptor and kind of sequence."""
        curves: dict[str, tuple[list[float], list[float]]] = {}
        for row in read_table(tables / "matching_accuracy.csv"):
            xs, ys = curves.setdefault(f"{row['descriptor']}, {row['kind']}", ([], []))
            xs.append(float(row["pixels"]))
            ys.append(float(row["accuracy"]))
        return {"Mean matching accuracy": charts.lines(curves, "threshold in pixels", "correct matches, in percent")}


@dataclass(frozen=True)
class HomographyJob:
    """Features whose keypoints are matched, and how.

    Attributes:
        store: Features of the images.
        block: Block of the model.
        descriptor: Descriptor that is matched.
        channels: Massive channels, for descriptors with "+discard".
        sampling: Where descriptors are sampled, as in `HomographySettings`.
        metric: Measure for nearest neighbours, as in `HomographySettings`.
    """

    store: FeatureReader
    block: int
    descriptor: Descriptor
    channels: Sequence[int]
    sampling: Sampling
    metric: Metric

    def describe(self, features: ImageFeatures, points: Points) -> Vectors:
        """Return the descriptors at points (x, y) of an image, [n, C]."""
        return sample(features, points, self.descriptor, self.channels, self.sampling)


def match_keypoints(
    job: HomographyJob, source: str, target: str, source_points: Points, target_points: Points
) -> tuple[Points, Points, NDArray[np.float64]]:
    """Match the keypoints of two images that are mutual nearest neighbours.

    Args:
        job: Features, and how they are matched.
        source: Id of the source image.
        target: Id of the target image.
        source_points: Keypoints (x, y) of the source image in pixels, [n, 2]. Repeated points count once.
        target_points: Keypoints (x, y) of the target image in pixels, [k, 2].

    Returns:
        The matched points of the source image, [m, 2], those of the target image, [m, 2], and their cosine
        similarities, [m].
    """
    source_points, target_points = np.unique(source_points, axis=0), np.unique(target_points, axis=0)
    source_features, target_features = job.store.pair(job.block, source, target)
    source_rows, target_rows, similarity = mutual_neighbours(
        job.describe(source_features, source_points), job.describe(target_features, target_points), job.metric
    )
    return source_points[source_rows], target_points[target_rows], similarity


def sample(
    features: ImageFeatures, points: Points, descriptor: Descriptor, channels: Sequence[int], sampling: Sampling
) -> Vectors:
    """Return the descriptors at points of an image.

    Args:
        features: Features of the image.
        points: Points (x, y) in pixels, [n, 2].
        descriptor: Descriptor, as in `ImageFeatures.descriptors`.
        channels: Massive channels, for descriptors with "+discard".
        sampling: Where descriptors are sampled, as in `HomographySettings`.

    Returns:
        Descriptors, float32 [n, C].
    """
    if sampling == "pixels":
        return features.descriptors_at(points, descriptor, channels)
    (h, w), (width, height) = features.grid, features.size
    maps = features.descriptors(descriptor, channels).reshape(h, w, -1)
    # DIFT normalizes coordinates as for align_corners=True, but calls grid_sample with align_corners=False and zero
    # padding.
    x, y = points[:, 0] * w / (width - 1) - 0.5, points[:, 1] * h / (height - 1) - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    descriptors = np.zeros((len(points), maps.shape[-1]), np.float32)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column)) * inside
            descriptors += (maps[row.clip(0, h - 1), column.clip(0, w - 1)] * weight[:, None]).astype(np.float32)
    return descriptors


def mutual_neighbours(
    one: Vectors, other: Vectors, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Find the mutual nearest neighbours of two sets of descriptors.

    Args:
        one: Descriptors, [n, C].
        other: Descriptors, [k, C].
        metric: Measure for nearest neighbours.

    Returns:
        Rows of the first set, [m], their neighbours' rows of the second set, [m], and their cosine similarities, [m].
    """
    if not len(one) or not len(other):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    cosine = unit(one).astype(np.float64) @ unit(other).astype(np.float64).T
    closeness = cosine
    if metric == "l2":
        a, b = one.astype(np.float64), other.astype(np.float64)
        closeness = 2 * a @ b.T - (a**2).sum(1)[:, None] - (b**2).sum(1)[None]
    nearest_other, nearest_one = closeness.argmax(1), closeness.argmax(0)
    mutual = np.flatnonzero(nearest_one[nearest_other] == np.arange(len(one)))
    return mutual, nearest_other[mutual], cosine[mutual, nearest_other[mutual]]


def points_of(catalog: Catalog) -> dict[str, Points]:
    """Return the keypoints (x, y) of each image in pixels, [n, 2], by its id."""
    points_by_image: dict[str, list[tuple[float, float]]] = {item: [] for item in catalog.images()}
    for row in catalog.rows("points"):
        points_by_image[row["id"]].append((row["x"], row["y"]))
    return {item: np.array(points, np.float64).reshape(-1, 2) for item, points in points_by_image.items()}


def _by_pair(path: Path, descriptors: Sequence[Descriptor]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Read the matches of each pair, by descriptor.

    Args:
        path: Table of matches.
        descriptors: Descriptors in the table.

    Returns:
        For each descriptor and pair, the points of the source and the target image, each [m, 2].
    """
    rows_by_pair: dict[str, dict[str, list[Any]]] = {descriptor: {} for descriptor in descriptors}
    for row in pq.read_table(path).to_pylist():
        rows = rows_by_pair[row["descriptor"]].setdefault(row["pair"], [])
        rows.append([row[name] for name in ("source_x", "source_y", "target_x", "target_y")])
    return {
        descriptor: {pair: (np.array(rows)[:, :2], np.array(rows)[:, 2:]) for pair, rows in pairs.items()}
        for descriptor, pairs in rows_by_pair.items()
    }
