"""PCK: the percentage of correct keypoints, per image and per point, as SPair-71k's evaluation counts it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ditf.metrics.intervals import Row

Floats = np.ndarray[Any, np.dtype[np.float64]]

# One row per keypoint and descriptor; any other columns are groups. Points in pixels; confidence: by which a matcher
# ranks its matches; error: pixels from prediction to
# truth; threshold: the pixels that alpha multiplies.
PREDICTIONS = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("descriptor", pa.string()),
            ("pair", pa.string()),
            ("category", pa.string()),
            ("keypoint", pa.int32()),
            ("source_x", pa.float64()),
            ("source_y", pa.float64()),
            ("target_x", pa.float64()),
            ("target_y", pa.float64()),
            ("predicted_x", pa.float64()),
            ("predicted_y", pa.float64()),
            ("similarity", pa.float64()),
            ("confidence", pa.float64()),
            ("error", pa.float64()),
            ("threshold", pa.float64()),
        )
    ]
)


CURVE = tuple(n / 100 for n in range(1, 21))  # alphas
COVERAGES = tuple(range(100, 0, -10))  # percent of the keypoints, the most confident first


def pck(predictions: pa.Table, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """PCK of every group of predictions.

    Args:
        predictions: a table with the columns of `PREDICTIONS`, and others by which to group.
        alphas: a keypoint is correct if its error is at most alpha * threshold.

    Returns:
        Rows with descriptor, group ("category" or another column), value (of that column; for categories also "All"
        and "Mean"), alpha, image and point (PCK in percent, per image and per point), pairs and keypoints (counts).
    """
    rows = []
    groups = ["category", *(name for name in predictions.column_names if name not in PREDICTIONS.names)]
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        error, threshold = (table[name].to_numpy() for name in ("error", "threshold"))
        pair, _ = _codes(table["pair"])
        members = {}
        for group in groups:
            label, names = _codes(table[group])
            members[group] = {str(name): np.flatnonzero(label == n) for n, name in enumerate(names)}
        for alpha in alphas:
            correct = error <= alpha * threshold
            for group, groups_of_rows in members.items():
                scores = [
                    {"value": name, **_score(correct[rows_of], pair[rows_of])}
                    for name, rows_of in sorted(groups_of_rows.items())
                ]
                if group == "category":
                    mean = {key: float(np.mean([row[key] for row in scores])) for key in ("image", "point")}
                    everything = _score(correct, pair)
                    scores += [{"value": "All", **everything}, {"value": "Mean", **everything, **mean}]
                rows += [{"descriptor": descriptor, "group": group, "alpha": alpha, **row} for row in scores]
    return rows


def by_rule(predictions: pa.Table, unit_x: Floats, unit_y: Floats) -> pa.Table:
    """Predictions whose errors are measured by another threshold rule.

    Args:
        predictions: a table with the columns of `PREDICTIONS`.
        unit_x, unit_y: of each row, in pixels: the error is the length of (dx / unit_x, dy / unit_y).
    """
    away = [predictions[f"predicted_{axis}"].to_numpy() - predictions[f"target_{axis}"].to_numpy() for axis in "xy"]
    columns = {"error": np.hypot(away[0] / unit_x, away[1] / unit_y), "threshold": np.ones(len(predictions))}
    for name, values in columns.items():
        place = predictions.schema.get_field_index(name)
        predictions = predictions.set_column(place, predictions.schema.field(name), pa.array(values))
    return predictions


def by_coverage(predictions: pa.Table, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """PCK per point of the most confident matches.

    Args:
        predictions: a table with the columns of `PREDICTIONS`.
        alphas: as in `pck`.

    Returns:
        Rows with descriptor, alpha, coverage (percent of the keypoints), confidence (the least of them) and point (PCK
        in percent).
    """
    rows = []
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        confidence, error, threshold = (table[name].to_numpy() for name in ("confidence", "error", "threshold"))
        order = np.argsort(-confidence, kind="stable")
        for alpha in alphas:
            correct = (error <= alpha * threshold)[order]
            for coverage in COVERAGES:
                count = math.ceil(len(order) * coverage / 100)
                least = float(confidence[order[count - 1]])
                row = {"descriptor": descriptor, "alpha": alpha, "coverage": coverage, "confidence": least}
                rows.append({**row, "point": 100 * float(correct[:count].mean())})
    return rows


def over_alpha(predictions: pa.Table) -> list[dict[str, Any]]:
    """PCK per point, in percent, at alphas 0.01, 0.02, ... 0.2: rows with descriptor, alpha and point."""
    rows = []
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        error, threshold = (table[name].to_numpy() for name in ("error", "threshold"))
        for alpha in CURVE:
            point = 100 * float((error <= alpha * threshold).mean())
            rows.append({"descriptor": descriptor, "alpha": alpha, "point": point})
    return rows


def by_pair(predictions: pa.Table, alphas: Sequence[float]) -> Iterator[Row]:
    """What each pair adds to PCK per image and per point, for `ditf.metrics.intervals`."""
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        error, threshold = (table[name].to_numpy() for name in ("error", "threshold"))
        member, names = _codes(table["pair"])
        count = np.bincount(member)
        for alpha in alphas:
            right = 100 * np.bincount(member, error <= alpha * threshold)
            for name, n, correct in zip(names, count.tolist(), right.tolist(), strict=True):
                yield descriptor, f"image@{alpha:g}", name, "", correct / n, 1.0
                yield descriptor, f"point@{alpha:g}", name, "", correct, float(n)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[Any]]:
    """A column as numbers, and the values that they stand for."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _score(correct: np.ndarray[Any, np.dtype[np.bool_]], pair: np.ndarray[Any, Any]) -> dict[str, Any]:
    _, member, keypoints = np.unique(pair, return_inverse=True, return_counts=True)
    fractions = np.bincount(member, correct) / keypoints
    return {
        "image": 100 * math.fsum(fractions) / len(fractions),
        "point": 100 * float(correct.mean()),
        "pairs": len(keypoints),
        "keypoints": len(correct),
    }
