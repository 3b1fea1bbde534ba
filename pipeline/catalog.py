"""The catalog: Parquet tables with declared schemas, which every later step reads instead of the raw folders."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline.engine import HERE, Engine
from pipeline.errors import UserError
from pipeline.images import Facts, inspect

T = TypeVar("T")
R = TypeVar("R")


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


BOX = pa.list_(pa.float32(), 4)

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
    "prompts": _schema(prompt=pa.string()),
    # Boxes are x1, y1, x2, y2 in pixels. The grades are SPair-71k's difficulties.
    "pairs": _schema(
        pair=pa.string(),
        category=pa.string(),
        source=pa.string(),
        target=pa.string(),
        source_box=BOX,
        target_box=BOX,
        viewpoint_variation=pa.int8(),
        scale_variation=pa.int8(),
        truncation=pa.int8(),
        occlusion=pa.int8(),
        mirror=pa.int8(),
    ),
    # One row a keypoint that both images show, in pixels.
    "keypoints": _schema(
        pair=pa.string(),
        keypoint=pa.int32(),
        name=pa.string(),
        source_x=pa.int32(),
        source_y=pa.int32(),
        target_x=pa.int32(),
        target_y=pa.int32(),
    ),
    # objects: their number in the first frame, from 1.
    "sequences": _schema(
        sequence=pa.string(),
        frames=pa.int32(),
        objects=pa.int32(),
        width=pa.int32(),
        height=pa.int32(),
    ),
    # id: of the image. name: the file's, without its ending.
    "frames": _schema(id=pa.string(), sequence=pa.string(), index=pa.int32(), name=pa.string()),
    "masks": _schema(id=pa.string(), path=pa.string(), sha256=pa.string(), objects=pa.list_(pa.int16())),
}


def write_tables(folder: Path, tables: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write each list of rows as `<folder>/<name>.parquet` with its declared schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
        pq.write_table(table, folder / f"{name}.parquet")


def read_table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table. Raises `UserError` where the file is missing or of foreign make."""
    path = folder / f"{name}.parquet"
    try:
        table = pq.read_table(path)
        if not table.schema.equals(SCHEMAS[name]):
            raise UserError(f"{path}: its columns are not those of this version; run `dvc repro`")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro` to make it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); run `dvc repro`") from None
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


class Problems:
    """Collects what is wrong with a data set, so that all of it is told at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: Path | str, what: str) -> None:
        self.lines.append(f"{where}: {what}")

    def take(self, work: Callable[[T], R], argument: T) -> R | None:
        """Call `work`; where it raises `UserError`, keep its line and return None."""
        try:
            return work(argument)
        except UserError as error:
            self.lines.append(str(error))
            return None

    def raise_any(self) -> None:
        if self.lines:
            count = "1 problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
            raise UserError("\n".join([*self.lines, f"{count} in the data set; nothing was written"]))


def inspect_images(paths: Iterable[Path], problems: Problems, engine: Engine = HERE) -> dict[Path, Facts]:
    """Decode and hash all images, several at once; those that cannot be read become problems."""
    paths, facts = list(paths), dict[Path, Facts]()
    seen = engine.map(_look, ((path.name, (path.absolute(), path)) for path in paths), threads=True)
    for path, found in zip(paths, tqdm(seen, "images", len(paths), unit="image", delay=1), strict=True):
        if isinstance(found, Facts):
            facts[path] = found
        else:
            problems.lines.append(found)
    return facts


def _look(path: Path, shown: Path) -> Facts | str:
    """What an image file is, or what is wrong with it, said of the path as the user gave it."""
    try:
        return inspect(path)
    except UserError as error:
        return str(error).replace(str(path), str(shown))


def inside(root: Path, relative: str) -> Path:
    """The path of `relative` in the data set. Raises `UserError` where it would leave `root`, by a link too."""
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path}: leads out of the data set {root}; names stay inside it")
    return path
