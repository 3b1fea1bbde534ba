"""The catalog: Parquet tables of what a data set holds, which every later step reads in place of the raw folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ditf.data.images import ImageFile, inspect
from ditf.errors import UserError
from ditf.types import Rule

P = ParamSpec("P")
R = TypeVar("R")
Row = dict[str, Any]


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


# The columns that a table must have. `pairs` may have any others: predictions are grouped by each of them.
SCHEMAS = {
    # path: relative to the data set's root. sha256: of the file's bytes. Sizes in pixels.
    "images": _schema(
        id=pa.string(),
        path=pa.string(),
        sha256=pa.string(),
        width=pa.int32(),
        height=pa.int32(),
        category=pa.string(),
        prompt=pa.string(),
    ),
    # threshold: the pixels that alpha multiplies, such as the longer side of the target's box.
    "pairs": _schema(
        pair=pa.string(), category=pa.string(), source=pa.string(), target=pa.string(), threshold=pa.float64()
    ),
    # Further threshold rules, each with a row per pair: a keypoint is correct where its error, its x and y divided by
    # the units, is at most alpha. The units are in pixels; they differ where a protocol squashes the image.
    "rules": _schema(pair=pa.string(), rule=pa.string(), unit_x=pa.float64(), unit_y=pa.float64()),
    # One row per keypoint that both images show, in pixels; the source lies inside its image. Further columns of
    # booleans name subsets, each of which is scored, too.
    "keypoints": _schema(
        pair=pa.string(),
        keypoint=pa.int32(),
        name=pa.string(),
        source_x=pa.float64(),
        source_y=pa.float64(),
        target_x=pa.float64(),
        target_y=pa.float64(),
    ),
    # matrix: the homography from the source to the target, row by row.
    "homographies": _schema(
        pair=pa.string(), category=pa.string(), source=pa.string(), target=pa.string(), matrix=pa.list_(pa.float64())
    ),
    # Keypoints of images, in pixels.
    "points": _schema(id=pa.string(), x=pa.float64(), y=pa.float64()),
    # objects: their number in the first mask, from 1. context_limit: most frames of context besides the first, or 0.
    "sequences": _schema(
        sequence=pa.string(),
        frames=pa.int32(),
        objects=pa.int32(),
        width=pa.int32(),
        height=pa.int32(),
        context_limit=pa.int32(),
    ),
    # id: of the image. name: the file's, without its suffix.
    "frames": _schema(id=pa.string(), sequence=pa.string(), index=pa.int32(), name=pa.string()),
    # png: the true index mask of a frame: 0 background, 1..n objects, 255 void.
    "masks": _schema(id=pa.string(), png=pa.binary()),
    # Of semantic segmentation: the indices of masks that are classes.
    "classes": _schema(index=pa.int32(), name=pa.string()),
    "warnings": _schema(file=pa.string(), warning=pa.string()),
}


@dataclass(frozen=True)
class Tables:
    """What a data set's reader returns.

    rows: of each table by its name. resize: the rule by which benchmarks resize images. threshold: what the column
    threshold of pairs is, in a word.
    """

    rows: dict[str, list[Row]]
    resize: Rule
    threshold: str = "box"


class Catalog:
    """A written catalog, opened. Raises `UserError` where `folder` holds none."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        metadata = self._read("images").schema.metadata or {}
        self.resize: Rule = metadata.get(b"resize", b"longer").decode()
        self.threshold: str = metadata.get(b"threshold", b"box").decode()

    def rows(self, name: str) -> list[Row]:
        """The rows of the table `name`, one of `SCHEMAS`. Raises `UserError` where it is missing or foreign."""
        found: list[Row] = self._read(name).to_pylist()
        return found

    def has(self, name: str) -> bool:
        """Whether there is a table `name`."""
        return (self.folder / f"{name}.parquet").exists()

    def images(self) -> dict[str, Row]:
        """The rows of the table images by id."""
        return {row["id"]: row for row in self.rows("images")}

    def groups(self) -> list[str]:
        """The columns by which pairs are grouped: the category, and those that the data set added."""
        return ["category", *(name for name in self._read("pairs").column_names if name not in SCHEMAS["pairs"].names)]

    def subsets(self) -> dict[str, set[tuple[str, int]]]:
        """The (pair, keypoint) of each subset of keypoints, by the name of its column."""
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
            raise UserError(f"{path}: not found; run `dvc repro`, or use a data set that has {name}") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file ({error}); run `dvc repro`") from None
        if any(column not in table.schema for column in SCHEMAS[name]):
            raise UserError(f"{path}: its columns are not those of this version; run `dvc repro`")
        return table


def write_catalog(folder: Path, tables: Tables) -> None:
    """Write each table as `<folder>/<name>.parquet`, its declared columns first and the others as Arrow infers them.

    Raises:
        UserError: a table is unknown, or a row lacks a column or has it of another type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"warnings": [], **tables.rows}.items():
        if name not in SCHEMAS:
            raise UserError(f"{folder.name}: a reader gave a table {name!r}; the tables are {', '.join(SCHEMAS)}")
        schema = SCHEMAS[name]
        more = [column for column in (rows[0] if rows else {}) if column not in schema.names]
        try:
            table = pa.Table.from_pylist(rows, schema=schema)
            for column in more:
                table = table.append_column(column, pa.array([row[column] for row in rows]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
            raise UserError(f"{folder.name}: the reader's rows of {name} do not fit their schema ({error})") from None
        if name == "images":
            table = table.replace_schema_metadata({"resize": tables.resize, "threshold": tables.threshold})
        pq.write_table(table, folder / f"{name}.parquet")


@dataclass
class Problems:
    """Collects what is wrong with a data set, so that all of it is reported at once.

    lines: what makes an evaluation impossible. warnings: what does not; they are counted, and kept in the catalog.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[Row] = field(default_factory=list)

    def add(self, where: Path | str, what: str) -> None:
        self.lines.append(f"{where}: {what}")

    def warn(self, where: Path | str, what: str) -> None:
        self.warnings.append({"file": str(where), "warning": what})

    def take(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call `work`; where it raises `UserError`, keep its line and return None."""
        try:
            return work(*args, **kwargs)
        except UserError as error:
            self.lines.append(str(error))
            return None

    def raise_any(self) -> None:
        """Raises `UserError` with every line, if there are any."""
        if self.lines:
            count = "1 problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
            raise UserError("\n".join([*self.lines, f"{count} in the data set; nothing was written"]))


def inspect_images(paths: Iterable[Path], problems: Problems) -> dict[Path, ImageFile]:
    """Decode and hash all images, several at once; those that cannot be read become problems, in their order."""

    def look(path: Path) -> ImageFile | UserError:
        try:
            return inspect(path)
        except UserError as error:
            return error

    paths, found = list(paths), dict[Path, ImageFile]()
    with ThreadPoolExecutor() as pool:
        seen = tqdm(pool.map(look, paths), "images", len(paths), unit="image", delay=1)
        for path, image in zip(paths, seen, strict=True):
            if isinstance(image, ImageFile):
                found[path] = image
            else:
                problems.lines.append(str(image))
    return found


def inside(root: Path, relative: str) -> Path:
    """The path of `relative` in the data set. Raises `UserError` where it would leave `root`, by a link too."""
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path}: leads out of the data set {root}; names stay inside it")
    return path


def image_row(id: str, path: str, image: ImageFile, category: str, prompt: str) -> Row:
    """A row of the table images."""
    return {"id": id, "path": path, **vars(image), "category": category, "prompt": prompt}


def keypoint_row(
    pair: str, keypoint: int, name: str, source: Sequence[float], target: Sequence[float], size: tuple[int, int]
) -> Row:
    """A row of the table keypoints. source, target: points (x, y). size: (width, height) of the source.

    A source outside its image becomes the nearest point inside, since there alone are features.
    """
    (x, y), (width, height) = source, size
    row = {"pair": pair, "keypoint": keypoint, "name": name}
    row |= {"source_x": min(max(float(x), 0.0), width - 1.0), "source_y": min(max(float(y), 0.0), height - 1.0)}
    return row | {"target_x": float(target[0]), "target_y": float(target[1])}


def texts_of(images: Iterable[Mapping[str, Any]]) -> list[str]:
    """The distinct prompts of rows of images, sorted."""
    return sorted({row["prompt"] for row in images})
