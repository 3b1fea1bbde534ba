"""J and F of video object segmentation, as the DAVIS-2017 evaluator defines them.

Method: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016);
Pont-Tuset et al., "The 2017 DAVIS Challenge" (arXiv 1704.00675).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ditf.data.masks import VOID

BOUNDARY_TOLERANCE = 0.008  # of the image's diagonal
RECALL_THRESHOLD = 0.5
QUARTERS = 4

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]


def evaluate_frame(truth: Mask, prediction: Mask, objects: int) -> NDArray[np.float64]:
    """J and F of objects 1..n in one frame.

    Args:
        truth: index mask [height, width]; 255 is void and counts for nothing.
        prediction: index mask of the same shape.
        objects: n.

    Returns:
        [n, 2]: J (region similarity) and F (contour accuracy), each from 0 to 1.
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
    """Mean, recall and decay of one object's measure over the frames, [frames]."""
    ends = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[-2] : ends[-1] + 1]
    return {
        "Mean": float(values.mean()),
        "Recall": float((values > RECALL_THRESHOLD).mean()),
        "Decay": float(first.mean() - last.mean()),
    }


def summarize(objects: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """The official metrics over all objects: J&F-Mean, then Mean, Recall and Decay of J and of F.

    Args:
        objects: J and F over the frames of each object, [frames, 2], the first and the last frame left out.
    """
    result = {}
    for column, measure in enumerate("JF"):
        each = [statistics(values[:, column]) for values in objects.values()]
        for name in ("Mean", "Recall", "Decay"):
            result[f"{measure}-{name}"] = float(np.mean([one[name] for one in each]))
    return {"J&F-Mean": (result["J-Mean"] + result["F-Mean"]) / 2, **result}


def _jaccard(truth: Bools, guess: Bools) -> float:
    union = np.count_nonzero(truth | guess)
    return np.count_nonzero(truth & guess) / union if union else 1.0


def _boundary_f(truth: Bools, guess: Bools, disk: Mask, radius: int) -> float:
    """F-measure of the boundaries, each matched where the other, dilated, covers it."""
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
    """Pixels that differ from the one to the right, below, or both; at the border, from what is there."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge = (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])
    return edge.view(np.uint8)


def _box(mask: Bools, margin: int) -> tuple[slice, slice] | None:
    """The bounding box of a mask, widened by `margin`; None where the mask is empty."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return None
    return (
        slice(max(y - margin, 0), y + height + margin),
        slice(max(x - margin, 0), x + width + margin),
    )


def _disk(radius: int) -> Mask:
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)
