"""Matching points of one image in another, for use in Python."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ditf.errors import UserError
from ditf.features.store import ImageFeatures
from ditf.matching.nearest import Target
from ditf.matching.pairs import descriptors_at
from ditf.types import Descriptor


def match(
    source: ImageFeatures,
    target: ImageFeatures,
    points: Iterable[Sequence[int]],
    descriptor: Descriptor | None = None,
    channels: Sequence[int] | None = None,
) -> pa.Table:
    """Find the pixels of one image that correspond to points of another.

    Args:
        source, target: features of the two images, of the same model and block.
        points: pixels (x, y) of the source image.
        descriptor: "adaln+discard" unless given, or "original" for models without AdaLN.
        channels: to discard; the source's massive channels unless given.

    Returns:
        A table with a row per point: source_x, source_y, target_x, target_y in pixels, and the cosine similarity.

    Raises:
        UserError: a point is outside the source image.
    """
    asked = np.array([tuple(point) for point in points], np.int64).reshape(-1, 2)
    width, height = source.size
    if ((asked < 0) | (asked >= (width, height))).any():
        raise UserError(f"points: outside the source image, which is {width}x{height} pixels")
    channels = list(source.massive) if channels is None else channels
    queries = descriptors_at(source, asked, descriptor, channels)
    found, similarity = Target(target.descriptors(descriptor, channels), target.grid, target.size).match(queries)
    columns: dict[str, Any] = {"source_x": asked[:, 0], "source_y": asked[:, 1]}
    return pa.table(columns | {"target_x": found[:, 0], "target_y": found[:, 1], "similarity": similarity})
