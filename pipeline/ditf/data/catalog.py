"""The catalog: Parquet tables that describe a data set. Later steps read them instead of the data set's folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ditf.data.images import ImageFile
from ditf.errors import NotFoundError, UserError
from ditf.files import reporting_write_errors
from ditf.types import Rule

Row = dict[str, Any]


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


# Columns that each table must have. `pairs` may have more columns; metrics are then grouped by each of them.
SCHEMAS = {
    # path is relative to the data set's root. sha256 is the hash of the file's bytes, and pixels_sha256 of the decoded
    # pixels, from which the noise is seeded. Sizes are in pixels.
    "images": _schema(
        id=pa.string(),
        path=pa.string(),
        sha256=pa.string(),
        pixels_sha256=pa.string(),
        width=pa.int32(),
        height=pa.int32(),
        category=pa.string(),
        prompt=pa.string(),
    ),
    # A keypoint is correct within alpha * threshold pixels. The threshold is, for example, a side of the target's box.
    "pairs": _schema(
        pair=pa.string(), category=pa.string(), source=pa.string(), target=pa.string(), threshold=pa.float64()
    ),
    # Other threshold rules, each with a row per pair. A keypoint is correct if its error is at most alpha after x and y
    # are divided by the units, which are in pixels. The two units differ if a protocol resizes images to a square.
    "rules": _schema(pair=pa.string(), rule=pa.string(), unit_x=pa.float64(), unit_y=pa.float64()),
    # One row per keypoint that both images show, in pixels. The source point lies inside its image. More boolean
    # columns name subsets of keypoints, which are scored separately as well.
    "keypoints": _schema(
        pair=pa.string(),
        keypoint=pa.int32(),
        name=pa.string(),
        source_x=pa.float64(),
        source_y=pa.float64(),
        target_x=pa.float64(),
        target_y=pa.float64(),
    ),
    # matrix is the homography from the source to the target, row by row.
    "homographies": _schema(
        pair=pa.string(), category=pa.string(), source=pa.string(), target=pa.string(), matrix=pa.list_(pa.float64())
    ),
    # Keypoints of images, in pixels.
    "points": _schema(id=pa.string(), x=pa.float64(), y=pa.float64()),
    # objects is the largest index in the first mask. context_limit is the largest number of context frames besides the
    # first; 0 if the sequence has no limit of its own.
    "sequences": _schema(
        sequence=pa.string(),
        frames=pa.int32(),
        objects=pa.int32(),
        width=pa.int32(),
        height=pa.int32(),
        context_limit=pa.int32(),
    ),
    # id is the image's. name is the file name without its suffix.
    "frames": _schema(id=pa.string(), sequence=pa.string(), index=pa.int32(), name=pa.string()),
    # png is the true index mask of an image: 0 background, 1..n objects or classes, 255 void.
    "masks": _schema(id=pa.string(), png=pa.binary()),
    # For semantic segmentation, the mask indices that are classes.
    "classes": _schema(index=pa.int32(), name=pa.string()),
    "warnings": _schema(file=pa.string(), warning=pa.string()),
}


@dataclass(frozen=True)
class Tables:
    """Tables of a data set, not written yet.

    Attributes:
        rows: Rows of each table, by the table's name in `SCHEMAS`.
        resize: Rule by which images are resized for a model.
        threshold: Short name of the column `threshold` of the table `pairs`.
    """

    rows: dict[str, list[Row]]
    resize: Rule
    threshold: str = "box"


class Catalog:
    """A catalog on disk.

    Args:
        folder: Folder that `write_catalog` wrote.

    Attributes:
        resize: Rule by which images are resized for a model.
        threshold: Short name of the column `threshold` of the table `pairs`.

    Raises:
        UserError: The folder does not hold a catalog.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        metadata = self._read("images").schema.metadata or {}
        self.resize: Rule = metadata.get(b"resize", b"longer").decode()
        self.threshold: str = metadata.get(b"threshold", b"box").decode()

    def rows(self, name: str) -> list[Row]:
        """Return the rows of a table of `SCHEMAS`. Raises `UserError` if it is missing or has other columns."""
        rows: list[Row] = self._read(name).to_pylist()
        return rows

    def has(self, name: str) -> bool:
        """Return whether there is a table `name`."""
        return (self.folder / f"{name}.parquet").exists()

    def images(self) -> dict[str, Row]:
        """Return the rows of the table `images` by id."""
        return {row["id"]: row for row in self.rows("images")}

    def groups(self) -> list[str]:
        """Return the columns by which pairs are grouped: the category, and those that the data set added."""
        return ["category", *(name for name in self._read("pairs").column_names if name not in SCHEMAS["pairs"].names)]

    def subsets(self) -> dict[str, set[tuple[str, int]]]:
        """Return the (pair, keypoint) keys of each subset of keypoints, by the name of its column."""
        if not self.has("keypoints"):
            return {}
        table = self._read("keypoints")
        names = [field.name for field in table.schema if pa.types.is_boolean(field.type)]
        keys = list(zip(table["pair"].to_pylist(), table["keypoint"].to_pylist(), strict=True))
        return {n: {k for k, member in zip(keys, table[n].to_pylist(), strict=True) if member} for n in names}

    def _read(self, name: str) -> pa.Table:
        path = self.folder / f"{name}.parquet"
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise NotFoundError(f"{path}: not found. Run `dvc repro`, or use a data set that has {name}.") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file ({error}). Run `dvc repro`.") from None
        if any(column not in table.schema for column in SCHEMAS[name]):
            raise UserError(f"{path}: its columns are not those of this version. Run `dvc repro`.")
        return table


def write_catalog(folder: Path, tables: Tables) -> None:
    """Write each table as `<folder>/<name>.parquet`.

    Columns that the schema does not declare follow the declared ones, with the type that Arrow infers.

    Raises:
        UserError: A table is unknown, or a row lacks a column or has another type there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"warnings": [], **tables.rows}.items():
        if name not in SCHEMAS:
            raise UserError(f"{folder.name}: the data set returned a table {name!r}. Return only {', '.join(SCHEMAS)}.")
        schema = SCHEMAS[name]
        additional = [column for column in (rows[0] if rows else {}) if column not in schema.names]
        try:
            table = pa.Table.from_pylist(rows, schema=schema)
            for column in additional:
                table = table.append_column(column, pa.array([row[column] for row in rows]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
            raise UserError(
                f"{folder.name}: the data set's rows of {name} do not fit the schema ({error}). Correct its `read`."
            ) from None
        if name == "images":
            table = table.replace_schema_metadata({"resize": tables.resize, "threshold": tables.threshold})
        with reporting_write_errors(folder):
            pq.write_table(table, folder / f"{name}.parquet")


def image_row(id: str, path: str, image: ImageFile, category: str, prompt: str) -> Row:
    """Return a row of the table `images`.

    Args:
        id: Name of the image in the data set.
        path: Path of its file, relative to the data set's root.
        image: Description of the file.
        category: What it shows; images are grouped by it.
        prompt: Text for a diffusion model.
    """
    hashes = {"sha256": image.sha256, "pixels_sha256": image.pixels_sha256}
    size = {"width": image.width, "height": image.height}
    return {"id": id, "path": path, **hashes, **size, "category": category, "prompt": prompt}


def keypoint_row(
    pair: str, keypoint: int, name: str, source: Sequence[float], target: Sequence[float], size: tuple[int, int]
) -> Row:
    """Return a row of the table `keypoints`.

    Args:
        pair: Name of the pair.
        keypoint: Number of the keypoint in the pair.
        name: Name of the keypoint; may be empty.
        source: Point (x, y) in the source image. A point outside the image is moved to the nearest one inside, since
            only there are features.
        target: Point (x, y) in the target image.
        size: (width, height) of the source image.
    """
    (x, y), (width, height) = source, size
    row = {"pair": pair, "keypoint": keypoint, "name": name}
    row |= {"source_x": min(max(float(x), 0.0), width - 1.0), "source_y": min(max(float(y), 0.0), height - 1.0)}
    return row | {"target_x": float(target[0]), "target_y": float(target[1])}


def texts_of(images: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the distinct prompts of rows of the table `images`, sorted."""
    return sorted({row["prompt"] for row in images})
