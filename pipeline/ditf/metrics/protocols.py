"""Protocols: named sets of scoring rules. Figures of different protocols are not comparable."""

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
    """A set of scoring rules.

    Attributes:
        name: Short name, such as "pck-box".
        rules: The rules in one or two sentences.
        closest: Name of the closest protocol that a cache of whole images allows; empty if tasks follow this protocol.
    """

    name: str
    rules: str
    closest: str = ""


def pck_protocol(threshold: str) -> Protocol:
    """Return the protocol of PCK with a threshold rule.

    Args:
        threshold: Short name of the rule, as in a catalog.
    """
    pixels = THRESHOLDS.get(threshold, f"the threshold “{threshold}” of the data set")
    rules = f"PCK: a keypoint is correct if its error in the original image is at most alpha times {pixels}."
    return Protocol(f"pck-{threshold.replace(' ', '-')}", rules)


def probe_protocol(labels: TokenLabels, resolution: int | None) -> Protocol:
    """Return the protocol of a linear probe.

    Args:
        labels: What the probe learns from.
        resolution: Side of the square in which masks are compared, in pixels. None for the size of each image.
    """
    compared = f"at {resolution} x {resolution} pixels" if resolution else "at the size of each image"
    rules = f"A linear probe learns from {LABELS[labels]}, on whole images. Masks are compared {compared}."
    return Protocol(f"linear-{labels}-{resolution or 'full'}", rules)


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
    yield from map(pck_protocol, THRESHOLDS)
    yield OBJECT_MASKS
    yield HOMOGRAPHIES
    for labels in LABELS:
        for resolution in (None, 448):
            yield probe_protocol(labels, resolution)  # type: ignore[arg-type]
    yield LINEAR_CROPS
    yield INDEX_RECALL
