"""Match points of one image in another, and compute similarity maps, for use in Python."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.reader import ImageFeatures
from ditf.matching.nearest import PixelIndex
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
        source: Features of the image with the points.
        target: Features of the image to search, from the same model and block.
        points: Pixels (x, y) of the source image, [k, 2].
        descriptor: Descriptor to match. By default "adaln+discard", or "original" for models without AdaLN.
        channels: Channels to discard. By default the source's massive channels.

    Returns:
        A table with a row per point. The columns source_x, source_y, target_x and target_y are in pixels, and
        similarity is the cosine similarity.

    Raises:
        UserError: A point is outside the source image.
    """
    pixels = _pixels(source, points)
    channels = list(source.massive) if channels is None else channels
    with threadpool_limits(1, user_api="blas"):  # products of few queries are faster in one thread
        queries = source.descriptors_at(pixels, descriptor, channels)
        index = PixelIndex(target.descriptors(descriptor, channels), target.grid, target.size)
        matches, similarity = index.search(queries)
    columns: dict[str, Any] = {"source_x": pixels[:, 0], "source_y": pixels[:, 1]}
    return pa.table(columns | {"target_x": matches[:, 0], "target_y": matches[:, 1], "similarity": similarity})


def similarity(
    source: ImageFeatures,
    target: ImageFeatures,
    points: Iterable[Sequence[int]],
    descriptor: Descriptor | None = None,
    channels: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Compute how similar every token of one image is to points of another.

    Args:
        source: Features of the image with the points.
        target: Features of the other image, from the same model and block.
        points: Pixels (x, y) of the source image, [k, 2].
        descriptor: Descriptor to compare. By default "adaln+discard", or "original" for models without AdaLN.
        channels: Channels to discard. By default the source's massive channels.

    Returns:
        Cosine similarities, float32 [k, rows, columns].

    Raises:
        UserError: A point is outside the source image.
    """
    channels = list(source.massive) if channels is None else channels
    queries = source.descriptors_at(_pixels(source, points), descriptor, channels)
    tokens = target.descriptors(descriptor, channels)
    with threadpool_limits(1, user_api="blas"):  # products of few queries are faster in one thread
        return (unit(queries) @ unit(tokens).T).reshape(-1, *target.grid)


def _pixels(source: ImageFeatures, points: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Return points as an array, int64 [k, 2], after checking that they are inside the image."""
    pixels = np.array([tuple(point) for point in points], np.int64).reshape(-1, 2)
    width, height = source.size
    if ((pixels < 0) | (pixels >= (width, height))).any():
        raise UserError(
            f"points: a point is outside the source image. Give pixels from (0, 0) to ({width - 1}, {height - 1})."
        )
    return pixels
