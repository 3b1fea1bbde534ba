"""Semantic segmentation: mean intersection over union and pixel accuracy."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import contingency_table

Counts = NDArray[np.float64]


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Counts:
    """Count the pixels of each class that are predicted as each class.

    Args:
        truth: True class of each pixel, uint8 [height, width]. Pixels with values above classes - 1 are left out.
        predicted: Predicted class of each pixel, uint8 [height, width].
        classes: Number of classes.

    Returns:
        Counts by true class (rows) and predicted class (columns), [classes, classes].
    """
    counted = truth < classes
    counts = np.zeros((classes, classes))
    if counted.any():
        table = contingency_table(truth[counted].astype(int), predicted[counted].astype(int), normalize=False).toarray()
        counts[: table.shape[0], : table.shape[1]] = table[:classes, :classes]
    return counts


def by_image(item: str, counts: Counts) -> Iterator[tuple[str, str, str, float, float]]:
    """Yield the contributions of an image to the metrics, for `ditf.metrics.intervals`.

    Args:
        item: Id of the image.
        counts: Confusion of the image, [classes, classes]. An image without counted pixels yields nothing.

    Yields:
        Metric, image, part (the class, or empty for pixel accuracy), numerator and denominator.
    """
    correct, union = np.diag(counts), counts.sum(1) + counts.sum(0) - np.diag(counts)
    if counts.any():
        yield "pixel accuracy", item, "", 100 * float(correct.sum()), float(counts.sum())
    for number in np.flatnonzero(union):
        yield "mIoU", item, str(number), 100 * float(correct[number]), float(union[number])


def summarize(counts: Iterable[Counts]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Compute the metrics over all images, in percent.

    Args:
        counts: Confusion of each image, [classes, classes]. At least one image must have counted pixels.

    Returns:
        mIoU and pixel accuracy, and a row per class. Classes in neither the truth nor the predictions are left out.
    """
    total = np.sum(list(counts), axis=0)
    correct, truth, predicted = np.diag(total), total.sum(1), total.sum(0)
    union = truth + predicted - correct
    rows = [
        {
            "class": number,
            "iou": 100 * correct[number] / union[number],
            "accuracy": 100 * correct[number] / truth[number] if truth[number] else "",
            "pixels": int(truth[number]),
        }
        for number in np.flatnonzero(union).tolist()
    ]
    mean = math.fsum(float(row["iou"]) for row in rows) / len(rows)
    return {"mIoU": mean, "pixel accuracy": 100 * float(correct.sum() / truth.sum())}, rows
