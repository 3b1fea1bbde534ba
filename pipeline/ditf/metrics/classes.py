"""Semantic segmentation: mean intersection over union and pixel accuracy."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import contingency_table

Counts = NDArray[np.float64]


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Counts:
    """How many pixels of each class, by row, are predicted as each, by column, [classes, classes].

    truth: class of each pixel from 0; those that are not below `classes` are left out.
    """
    counted = truth < classes
    table = contingency_table(truth[counted].astype(int), predicted[counted].astype(int), normalize=False).toarray()
    found = np.zeros((classes, classes))
    found[: table.shape[0], : table.shape[1]] = table[:classes, :classes]
    return found


def by_image(item: str, counts: Counts) -> Iterator[tuple[str, str, str, float, float]]:
    """What an image adds to the metrics: (metric, image, class, numerator, denominator), for `intervals`."""
    if not counts.any():
        return  # all pixels of the image are ignored
    right, union = np.diag(counts), counts.sum(1) + counts.sum(0) - np.diag(counts)
    yield "pixel accuracy", item, "", 100 * float(right.sum()), float(counts.sum())
    for n in np.flatnonzero(union):
        yield "mIoU", item, str(n), 100 * float(right[n]), float(union[n])


def summarize(counts: Iterable[Counts]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Of the confusion of each image: mIoU and pixel accuracy in percent over all pixels, and a row per class.

    A class that neither the truth nor a prediction has is left out of the mean.
    """
    total = np.sum(list(counts), axis=0)
    right, truth, predicted = np.diag(total), total.sum(1), total.sum(0)
    union = truth + predicted - right
    rows = [
        {
            "class": n,
            "iou": 100 * right[n] / union[n],
            "accuracy": 100 * right[n] / truth[n] if truth[n] else "",
            "pixels": int(truth[n]),
        }
        for n in range(len(total))
        if union[n]
    ]
    mean = math.fsum(float(row["iou"]) for row in rows) / len(rows)
    return {"mIoU": mean, "pixel accuracy": 100 * float(right.sum() / truth.sum())}, rows
