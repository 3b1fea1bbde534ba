"""PCK: the percentage of correct keypoints, per image and per point, as in the evaluation of SPair-71k."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ditf.metrics.intervals import Contribution

Floats = np.ndarray[Any, np.dtype[np.float64]]

# Columns of a table of predictions, with a row per keypoint and descriptor. Other columns are groups of pairs. Points,
# `error` (the distance between prediction and truth) and `threshold` (which alpha multiplies) are in pixels.
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

CURVE = tuple(n / 100 for n in range(1, 21))  # alphas of `over_alpha`
COVERAGES = tuple(range(100, 0, -10))  # in percent of the keypoints


def pck(predictions: pa.Table, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """Compute PCK for every group of pairs.

    Args:
        predictions: Table with the columns of `PREDICTIONS`. Pairs are also grouped by each of the other columns.
        alphas: A keypoint is correct if its error is at most alpha times the threshold.

    Returns:
        Rows with these keys:

        - descriptor
        - group: "category" or another column
        - value: value of that column; for categories also "All" for all keypoints, and "Mean" over the categories
        - alpha
        - image: PCK per image in percent
        - point: PCK per point in percent
        - pairs: number of pairs
        - keypoints: number of keypoints
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
    """Measure the errors of predictions in other units.

    The error of a keypoint becomes the length of (dx / unit_x, dy / unit_y), and its threshold becomes 1.

    Args:
        predictions: Table with the columns of `PREDICTIONS`.
        unit_x: Horizontal unit of each row in pixels, [n].
        unit_y: Vertical unit of each row in pixels, [n].

    Returns:
        The table with new errors and thresholds.
    """
    offsets = [predictions[f"predicted_{axis}"].to_numpy() - predictions[f"target_{axis}"].to_numpy() for axis in "xy"]
    columns = {"error": np.hypot(offsets[0] / unit_x, offsets[1] / unit_y), "threshold": np.ones(len(predictions))}
    for name, values in columns.items():
        place = predictions.schema.get_field_index(name)
        predictions = predictions.set_column(place, predictions.schema.field(name), pa.array(values))
    return predictions


def of_nearest_keypoint(predictions: pa.Table) -> pa.Table:
    """Make wrong what lies nearer to another keypoint, so that `pck` of the result is PCK† (PCK-dagger).

    A keypoint counts as correct in PCK† if its error is at most alpha times the threshold, and no other keypoint of its
    pair lies nearer to the prediction in the target image. Source: "Demystifying Unsupervised Semantic Correspondence
    Estimation" (Aygün and Mac Aodha, arXiv 2207.05054), `correct_kps_analyze` of its evaluation.

    Args:
        predictions: Table with the columns of `PREDICTIONS`.

    Returns:
        The table, in which the error of such predictions is infinite.
    """
    pair, _ = _codes(predictions["pair"])
    descriptor, _ = _codes(predictions["descriptor"])
    predicted, target = (
        np.stack([predictions[f"{name}_{axis}"].to_numpy() for axis in "xy"], 1) for name in ("predicted", "target")
    )
    error = predictions["error"].to_numpy().copy()
    order = np.lexsort((pair, descriptor))
    starts = np.flatnonzero(np.diff(descriptor[order]) | np.diff(pair[order])) + 1
    for rows in np.split(order, starts):
        distances = np.linalg.norm(predicted[rows, None] - target[None, rows], axis=-1)
        error[rows[distances.min(1) < distances.diagonal()]] = np.inf
    place = predictions.schema.get_field_index("error")
    return predictions.set_column(place, predictions.schema.field("error"), pa.array(error))


def by_coverage(predictions: pa.Table, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """Compute PCK per point of the most confident matches.

    Args:
        predictions: Table with the columns of `PREDICTIONS`.
        alphas: A keypoint is correct if its error is at most alpha times the threshold.

    Returns:
        Rows with these keys:

        - descriptor
        - alpha
        - coverage: share of the keypoints that is scored, in percent
        - confidence: least confidence of these keypoints
        - point: PCK per point in percent
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
    """Compute PCK per point at the alphas 0.01, 0.02, ..., 0.2.

    Args:
        predictions: Table with the columns of `PREDICTIONS`.

    Returns:
        Rows with descriptor, alpha and point (PCK in percent).
    """
    rows = []
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        error, threshold = (table[name].to_numpy() for name in ("error", "threshold"))
        for alpha in CURVE:
            point = 100 * float((error <= alpha * threshold).mean())
            rows.append({"descriptor": descriptor, "alpha": alpha, "point": point})
    return rows


def by_pair(predictions: pa.Table, alphas: Sequence[float], rule: str = "") -> Iterator[Contribution]:
    """Yield the contribution of each pair to PCK per image and per point, for `ditf.metrics.intervals`.

    Args:
        predictions: Table with the columns of `PREDICTIONS`.
        alphas: A keypoint is correct if its error is at most alpha times the threshold.
        rule: Name of another scoring rule, whose metric is PCK per image only; empty for the data set's own rule.

    Yields:
        Descriptor, metric, pair, part (empty), numerator and denominator.
    """
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        error, threshold = (table[name].to_numpy() for name in ("error", "threshold"))
        member, names = _codes(table["pair"])
        count = np.bincount(member)
        for alpha in alphas:
            percents = 100 * np.bincount(member, error <= alpha * threshold)
            for name, n, correct in zip(names, count.tolist(), percents.tolist(), strict=True):
                yield descriptor, f"image@{alpha:g}{f' of {rule}' if rule else ''}", name, "", correct / n, 1.0
                if not rule:
                    yield descriptor, f"point@{alpha:g}", name, "", correct, float(n)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[Any]]:
    """Encode a column as indices, int64 [n], into the list of its distinct values."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _score(correct: np.ndarray[Any, np.dtype[np.bool_]], pair: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return PCK per image and per point in percent, and the numbers of pairs and keypoints."""
    _, member, keypoints = np.unique(pair, return_inverse=True, return_counts=True)
    fractions = np.bincount(member, correct) / keypoints
    return {
        "image": 100 * math.fsum(fractions) / len(fractions),
        "point": 100 * float(correct.mean()),
        "pairs": len(keypoints),
        "keypoints": len(correct),
    }
