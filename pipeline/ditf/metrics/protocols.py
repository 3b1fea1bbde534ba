"""Protocols: named rules by which predictions are scored. Figures of different protocols are not comparable."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

TokenLabels = Literal["centre", "majority", "pixels"]

THRESHOLDS = {
    "box": "the longer side of the target's bounding box, as in SPair-71k and AP-10K",
    "image": "the longer side of the target image, as in PF-Pascal",
    "extent of the points": "the longer extent of the target's keypoints, as in PF-Willow",
}
LABELS = {
    "centre": "the class at the centre of each token",
    "majority": "the most frequent class of each token's pixels",
    "pixels": "the classes of random pixels, where it interpolates logits bilinearly",
}


@dataclass(frozen=True)
class Protocol:
    """How predictions are scored.

    Attributes:
        name: Short name, such as "pck-box".
        description: The rules in one sentence.
        closest: Name of the closest protocol that a cache of whole images allows; empty if tasks follow this protocol.
    """

    name: str
    description: str
    closest: str = ""


def keypoints(threshold: str) -> Protocol:
    """Return the protocol of PCK with a threshold rule.

    Args:
        threshold: Short name of the rule, as in a catalog.
    """
    rule = THRESHOLDS.get(threshold, f"the threshold “{threshold}” of the data set")
    description = f"PCK: a keypoint is correct if its error in the original image is at most alpha times {rule}."
    return Protocol(f"pck-{threshold.replace(' ', '-')}", description)


def linear_probe(labels: TokenLabels, resolution: int | None) -> Protocol:
    """Return the protocol of a linear probe.

    Args:
        labels: What the probe learns from.
        resolution: Side of the square in which masks are compared, in pixels. None for the size of each image.
    """
    compared = f"at {resolution} x {resolution} pixels" if resolution else "at the size of each image"
    description = f"A linear probe learns from {LABELS[labels]}, on whole images. Masks are compared {compared}."
    return Protocol(f"linear-{labels}-{resolution or 'full'}", description)


OBJECT_MASKS = Protocol(
    "davis-jf",
    "The first mask is given. J and F are means over objects, as the DAVIS-2017 evaluator computes them: the first and "
    "the last frame are not scored, and void pixels are not counted.",
)
HOMOGRAPHIES = Protocol(
    "homography-corners",
    "Mutual nearest neighbours of keypoints give a homography. It is correct if its mean corner error is at most a "
    "number of pixels of the original image.",
)
INDEX_RECALL = Protocol("index-recall", "Recall of the index against exact search in the same tokens.")
LINEAR_CROPS = Protocol(
    "linear-crops",
    "A linear probe learns from random crops of images, which a cache of whole images cannot repeat. Its logits are "
    "upsampled to the mask, and masks are compared at the size of each image.",
    closest="linear-pixels-full",
)


def protocols() -> Iterable[Protocol]:
    """Return the protocols of built-in tasks and of published figures."""
    yield from map(keypoints, THRESHOLDS)
    yield OBJECT_MASKS
    yield HOMOGRAPHIES
    for labels in LABELS:
        for resolution in (None, 448):
            yield linear_probe(labels, resolution)  # type: ignore[arg-type]
    yield LINEAR_CROPS
    yield INDEX_RECALL
