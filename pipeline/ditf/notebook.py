"""What a notebook uses beside extractors and stores: matching two images, and the tables of results."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ditf.errors import UserError
from ditf.features.descriptors import Descriptor
from ditf.features.store import ImageFeatures


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
    from ditf.matching.keypoints import descriptors_at
    from ditf.matching.nearest import Target

    asked = np.array([tuple(point) for point in points], np.int64).reshape(-1, 2)
    width, height = source.size
    if ((asked < 0) | (asked >= (width, height))).any():
        raise UserError(f"points: outside the source image, which is {width}x{height} pixels")
    channels = list(source.massive) if channels is None else channels
    queries = descriptors_at(source, asked, descriptor, channels)
    found, similarity = Target(target.descriptors(descriptor, channels), target.grid, target.size).match(queries)
    columns: dict[str, Any] = {"source_x": asked[:, 0], "source_y": asked[:, 1]}
    return pa.table(columns | {"target_x": found[:, 0], "target_y": found[:, 1], "similarity": similarity})


def load_results(folder: Path | str) -> dict[str, pa.Table]:
    """The tables of a task's results, such as `results/spair-flux`, by name; `.to_pandas()` gives pandas.

    Raises:
        UserError: the folder holds none.
    """
    tables = {
        path.stem: pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix in (".csv", ".parquet")
    }
    if not tables:
        raise UserError(f"{folder}: holds no tables of results")
    return tables
