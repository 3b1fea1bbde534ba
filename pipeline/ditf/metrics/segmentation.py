"""J and F of video object segmentation, as the DAVIS-2017 evaluator defines them.

Method: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016);
Pont-Tuset et al., "The 2017 DAVIS Challenge" (arXiv 1704.00675).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ditf.data.masks import VOID

BOUNDARY_TOLERANCE = 0.008  # as a fraction of the image's diagonal
RECALL_THRESHOLD = 0.5
QUARTERS = 4  # decay is the mean of the first quarter of the frames minus the mean of the last

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]


def evaluate_frame(truth: Mask, prediction: Mask, objects: int) -> NDArray[np.float64]:
    """Compute J and F of the objects 1..n in one frame.

    Args:
        truth: Index mask, uint8 [height, width]. Pixels with 255 are void and not counted.
        prediction: Index mask of the same shape.
        objects: Number of objects, n.

    Returns:
        J (region similarity) and F (contour accuracy) of each object as fractions, [n, 2].
    """
    valid = truth != VOID
    height, width = truth.shape
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(height, width)))
    disk = _disk(radius)
    result = np.empty((objects, 2))
    for number in range(1, objects + 1):
        true, guess = (truth == number) & valid, (prediction == number) & valid
        result[number - 1] = _jaccard(true, guess), _boundary_f(true, guess, disk, radius)
    return result


def statistics(values: NDArray[np.float64]) -> dict[str, float]:
    """Compute mean, recall and decay of J or F over the frames of one object.

    Args:
        values: J or F in each frame, [frames].

    Returns:
        Values by the names "Mean", "Recall" and "Decay", as fractions.
    """
    ends = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[-2] : ends[-1] + 1]
    return {
        "Mean": float(values.mean()),
        "Recall": float((values > RECALL_THRESHOLD).mean()),
        "Decay": float(first.mean() - last.mean()),
    }


def summarize(objects: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Compute the official metrics over all objects, as fractions.

    Args:
        objects: J and F of each object over the frames, [frames, 2], without the first and the last frame.

    Returns:
        J&F-Mean, and Mean, Recall and Decay of J and of F.
    """
    result = {}
    for column, measure in enumerate("JF"):
        each = [statistics(values[:, column]) for values in objects.values()]
        for name in ("Mean", "Recall", "Decay"):
            result[f"{measure}-{name}"] = float(np.mean([one[name] for one in each]))
    return {"J&F-Mean": (result["J-Mean"] + result["F-Mean"]) / 2, **result}


def _jaccard(truth: Bools, guess: Bools) -> float:
    """Return the intersection over union of two masks, or 1 if both are empty."""
    union = np.count_nonzero(truth | guess)
    return np.count_nonzero(truth & guess) / union if union else 1.0


def _boundary_f(truth: Bools, guess: Bools, disk: Mask, radius: int) -> float:
    """Return the F-measure of the boundaries of two masks.

    Args:
        truth: True mask, [height, width].
        guess: Predicted mask, [height, width].
        disk: Disk by which a boundary is dilated. A boundary pixel matches if the other dilated boundary covers it.
        radius: Radius of the disk in pixels.
    """
    box = _box(truth | guess, radius + 1)
    if box is None:
        return 1.0
    true_edge, guess_edge = _boundary(truth[box]), _boundary(guess[box])
    true_count, guess_count = np.count_nonzero(true_edge), np.count_nonzero(guess_edge)
    if true_count == 0 or guess_count == 0:
        return 1.0 if true_count == guess_count else 0.0
    near_truth, near_guess = cv2.dilate(true_edge, disk), cv2.dilate(guess_edge, disk)
    precision = np.count_nonzero(guess_edge & near_truth) / guess_count
    recall = np.count_nonzero(true_edge & near_guess) / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Bools) -> Mask:
    """Mark the pixels that differ from their neighbour to the right, below, or diagonally below."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge = (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])
    return edge.view(np.uint8)


def _box(mask: Bools, margin: int) -> tuple[slice, slice] | None:
    """Return the bounding box of a mask, widened by `margin`, or None for an empty mask."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return None
    return (
        slice(max(y - margin, 0), y + height + margin),
        slice(max(x - margin, 0), x + width + margin),
    )


def _disk(radius: int) -> Mask:
    """Return a disk of ones, uint8 [2 * radius + 1, 2 * radius + 1]."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)
