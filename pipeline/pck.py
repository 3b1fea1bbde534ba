"""PCK: the percentage of correct keypoints, per image and per point, as SPair-71k's evaluation counts it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

GRADES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion", "mirror")

# One row a keypoint and descriptor. Points in pixels; error: pixels from prediction to truth;
# extent: the longer side of the target's box, which alpha multiplies.
PREDICTIONS = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("descriptor", pa.string()),
            ("pair", pa.string()),
            ("category", pa.string()),
            ("keypoint", pa.int32()),
            ("source_x", pa.int32()),
            ("source_y", pa.int32()),
            ("target_x", pa.int32()),
            ("target_y", pa.int32()),
            ("predicted_x", pa.int32()),
            ("predicted_y", pa.int32()),
            ("similarity", pa.float64()),
            ("error", pa.float64()),
            ("extent", pa.float64()),
            *((grade, pa.int8()) for grade in GRADES),
        )
    ]
)


def pck(predictions: pa.Table, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """PCK of every group of predictions.

    Args:
        predictions: a table with the schema `PREDICTIONS`.
        alphas: a keypoint is correct if its error is at most alpha * extent.

    Returns:
        Rows with descriptor, group ("category" or a difficulty), value (a category, "All", "Mean", or a
        grade), alpha, image and point (PCK in percent, per image and per point), pairs and keypoints (counts).
    """
    rows = []
    for descriptor in pc.unique(predictions["descriptor"]).to_pylist():
        table = predictions.filter(pc.equal(predictions["descriptor"], descriptor))
        error, extent = (table[name].to_numpy() for name in ("error", "extent"))
        _, pair = np.unique(table["pair"].to_numpy(), return_inverse=True)
        for alpha in alphas:
            correct = error <= alpha * extent
            for group in ("category", *GRADES):
                labels = table[group].to_numpy()
                found = [
                    {"value": str(label), **_score(correct[labels == label], pair[labels == label])}
                    for label in np.unique(labels)
                ]
                if group == "category":
                    mean = {key: float(np.mean([row[key] for row in found])) for key in ("image", "point")}
                    everything = _score(correct, pair)
                    found += [{"value": "All", **everything}, {"value": "Mean", **everything, **mean}]
                rows += [{"descriptor": descriptor, "group": group, "alpha": alpha, **row} for row in found]
    return rows


def _score(correct: np.ndarray[Any, np.dtype[np.bool_]], pair: np.ndarray[Any, Any]) -> dict[str, Any]:
    _, member, keypoints = np.unique(pair, return_inverse=True, return_counts=True)
    fractions = np.bincount(member, correct) / keypoints
    return {
        "image": 100 * math.fsum(fractions) / len(fractions),
        "point": 100 * float(correct.mean()),
        "pairs": len(keypoints),
        "keypoints": len(correct),
    }
