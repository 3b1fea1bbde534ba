"""Homographies between images of a plane, from mutual nearest neighbours of descriptors at keypoints.

Protocol: DIFT (Tang et al., arXiv 2306.03881) on HPatches.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from tqdm import tqdm

from ditf.data.catalog import Catalog
from ditf.drawing import charts
from ditf.drawing.features import draw_feature_colours
from ditf.drawing.figures import spread
from ditf.drawing.matches import NamedImage, draw_matches
from ditf.features.descriptors import unit
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.matching.pairs import descriptors_at
from ditf.metrics import intervals
from ditf.metrics.homography import corner_error, estimate, reprojection
from ditf.settings import Distinct, Settings
from ditf.tasks.base import DescriptorSettings, DrawingInputs, Metrics, Scores, Task, read_csv, write_csv
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

    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        channels, points = self.predict.discarded(store), points_of(catalog)
        pairs, rows = catalog.rows("homographies"), []
        for descriptor in self.predict.descriptors:
            read = (store, self.predict.block, descriptor, channels, self.predict.sampling, self.predict.metric)
            tasks = (
                (p["pair"], (*read, p["source"], p["target"], points[p["source"]], points[p["target"]])) for p in pairs
            )
            matches = dict(tqdm(run(client, match_pair, tasks, cores()), descriptor, len(pairs), unit="pair", delay=2))
            for pair in pairs:
                for source, target, similarity in zip(*matches[pair["pair"]], strict=True):
                    rows.append((descriptor, pair["pair"], *source.tolist(), *target.tolist(), float(similarity)))
        named = [dict(zip(MATCHES.names, row, strict=True)) for row in rows]
        pq.write_table(pa.Table.from_pylist(named, schema=MATCHES), folder / "matches.parquet")

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        sizes = {item: (row["width"], row["height"]) for item, row in catalog.images().items()}
        pairs, metrics, bars = catalog.rows("homographies"), Metrics(), dict[str, float]()
        accuracy, matching, each = [], [], []
        units: list[intervals.Row] = []
        for descriptor, matches in _by_pair(predictions / "matches.parquet", self.predict.descriptors).items():
            errors: dict[str, list[float]] = {method: [] for method in self.score.methods}
            within = np.zeros((len(pairs), len(self.score.matches)))
            for number, pair in enumerate(pairs):
                truth = np.array(pair["matrix"]).reshape(3, 3)
                source, target = matches.get(pair["pair"], (np.empty((0, 2)),) * 2)
                off = reprojection(source, target, truth)
                if len(off):
                    within[number] = [(off <= pixels).mean() for pixels in self.score.matches]
                row: dict[str, Any] = {"descriptor": descriptor, "pair": pair["pair"], "matches": len(off)}
                for method, corner_errors in errors.items():
                    corner_errors.append(corner_error(estimate(source, target, method), truth, sizes[pair["source"]]))
                    row[f"{method} error"] = corner_errors[-1] if math.isfinite(corner_errors[-1]) else ""
                each.append(row)
            kinds = np.array([pair["category"] for pair in pairs])
            groups = {"overall": np.ones(len(pairs), bool), **{kind: kinds == kind for kind in sorted({*kinds})}}
            named = metrics.setdefault(descriptor, {})
            units += [
                (descriptor, f"{method}@{pixels:g}", pair["pair"], "", 100.0 * (error <= pixels), 1.0)
                for method, corner_errors in errors.items()
                for pixels in self.score.corners
                for pair, error in zip(pairs, corner_errors, strict=True)
            ]
            for kind, chosen in groups.items():
                for place, pixels in enumerate(self.score.matches):
                    value = float(within[chosen, place].mean())
                    matching.append({"descriptor": descriptor, "kind": kind, "pixels": pixels, "accuracy": 100 * value})
                for method, corner_errors in errors.items():
                    for pixels in self.score.corners:
                        value = 100 * float((np.array(corner_errors)[chosen] <= pixels).mean())
                        head = {"descriptor": descriptor, "kind": kind, "method": method}
                        accuracy.append({**head, "pixels": pixels, "accuracy": value})
                        if kind == "overall":
                            named[f"{method}@{pixels:g}"] = round(value, 2)
                        if pixels == self.score.corners[-1] and method == self.score.methods[0]:
                            bars[kind] = value
        write_csv(folder / "accuracy.csv", accuracy)
        write_csv(folder / "matching_accuracy.csv", matching)
        write_csv(folder / "pairs.csv", each)
        intervals.write_units(folder, units)
        return Scores(metrics, bars)

    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Matches of the best, the median and the worst pair, and features as colours."""
        descriptor = self.predict.descriptors[-1]
        matches = _by_pair(predicted.folder / "matches.parquet", [descriptor])[descriptor]
        pairs = {pair["pair"]: pair for pair in predicted.catalog.rows("homographies") if pair["pair"] in matches}
        off = {n: reprojection(*matches[n], np.array(p["matrix"]).reshape(3, 3)) for n, p in pairs.items()}
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
        off = reprojection(source, target, np.array(pair["matrix"]).reshape(3, 3))
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
        for row in read_csv(tables / "matching_accuracy.csv"):
            xs, ys = curves.setdefault(f"{row['descriptor']}, {row['kind']}", ([], []))
            xs.append(float(row["pixels"]))
            ys.append(float(row["accuracy"]))
        return {"Mean matching accuracy": charts.lines(curves, "threshold in pixels", "correct matches, in percent")}


def match_pair(
    store: FeatureReader,
    block: int,
    descriptor: Descriptor,
    channels: Sequence[int],
    sampling: Sampling,
    metric: Metric,
    source: str,
    target: str,
    source_points: NDArray[np.float64],
    target_points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mutual nearest neighbours of two images' keypoints: points [m, 2] of each, and their similarities [m]."""
    points = [np.unique(p, axis=0) for p in (source_points, target_points)]
    images = store.pair(block, source, target)
    described = [sample(image, p, descriptor, channels, sampling) for image, p in zip(images, points, strict=True)]
    one, other, similarity = mutual_neighbours(described[0], described[1], metric)
    return points[0][one], points[1][other], similarity


def sample(
    features: ImageFeatures,
    points: NDArray[np.float64],
    descriptor: Descriptor,
    channels: Sequence[int],
    sampling: Sampling,
) -> Vectors:
    """Descriptors [n, C] of an image at points (x, y) [n, 2]."""
    if sampling == "pixels":
        return descriptors_at(features, points, descriptor, channels)
    (h, w), (width, height) = features.grid, features.size
    maps = features.descriptors(descriptor, channels).reshape(h, w, -1)
    # Where torch's grid_sample looks, without align_corners, for coordinates normalized as if with it; zeros outside.
    x, y = points[:, 0] * w / (width - 1) - 0.5, points[:, 1] * h / (height - 1) - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    descriptors = np.zeros((len(points), maps.shape[-1]), np.float32)
    for down in (0, 1):
        for across in (0, 1):
            row, column = top + down, left + across
            there = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column)) * there
            descriptors += (maps[row.clip(0, h - 1), column.clip(0, w - 1)] * weight[:, None]).astype(np.float32)
    return descriptors


def mutual_neighbours(
    one: Vectors, other: Vectors, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows of two sets of descriptors [n, C] that are each other's nearest: [m] of each, and their similarities."""
    if not len(one) or not len(other):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    cosine = unit(one).astype(np.float64) @ unit(other).astype(np.float64).T
    near = cosine
    if metric == "l2":
        a, b = one.astype(np.float64), other.astype(np.float64)
        near = 2 * a @ b.T - (a**2).sum(1)[:, None] - (b**2).sum(1)[None]
    best, back = near.argmax(1), near.argmax(0)
    kept = np.flatnonzero(back[best] == np.arange(len(one)))
    return kept, best[kept], cosine[kept, best[kept]]


def points_of(catalog: Catalog) -> dict[str, NDArray[np.float64]]:
    """The keypoints of each image, (x, y) [n, 2]."""
    points_by_image: dict[str, list[tuple[float, float]]] = {item: [] for item in catalog.images()}
    for row in catalog.rows("points"):
        points_by_image[row["id"]].append((row["x"], row["y"]))
    return {item: np.array(points, np.float64).reshape(-1, 2) for item, points in points_by_image.items()}


def _by_pair(path: Path, descriptors: Sequence[Descriptor]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The matches of each pair, points [m, 2] of both images, by descriptor."""
    rows_by_pair: dict[str, dict[str, list[Any]]] = {descriptor: {} for descriptor in descriptors}
    for row in pq.read_table(path).to_pylist():
        place = rows_by_pair[row["descriptor"]].setdefault(row["pair"], [])
        place.append([row[name] for name in ("source_x", "source_y", "target_x", "target_y")])
    return {
        descriptor: {pair: (np.array(rows)[:, :2], np.array(rows)[:, 2:]) for pair, rows in pairs.items()}
        for descriptor, pairs in rows_by_pair.items()
    }
