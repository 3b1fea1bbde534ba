"""Two results over the same images: the paired difference of each metric, and what changed most."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditf.config.params import FILE, Params, load_params
from ditf.data.catalog import Catalog
from ditf.data.images import read_rgb
from ditf.drawing.charts import new_figure, save, show
from ditf.errors import UserError
from ditf.metrics.intervals import Sums, difference, read_units
from ditf.project.entries import check_entry, image_reader
from ditf.project.paths import CATALOGS, RESULTS, drawing_path
from ditf.tasks.base import DrawingInputs, Task
from ditf.types import Descriptor

SHOWN = 6  # of what changed most
SIDES = ("first", "second")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class ComparedResult:
    """One of the two. name: as it was asked for. folder: of the task's results."""

    name: str
    task: Task
    folder: Path
    descriptor: Descriptor

    def metrics(self) -> dict[str, Sums]:
        """Every metric that is known by pair, sequence or image."""
        found = read_units(self.folder / "tables").get(self.descriptor)
        if not found:
            raise UserError(f"{self.name}: a task of type {self.task.type} has no results by pair, sequence or image")
        return found

    def parts(self) -> dict[str, float]:
        """The first metric of what can be drawn."""
        return self.task.parts(self.folder / "tables", self.descriptor)


def compare(params: Params, first: str, second: str, out: Path | None) -> tuple[Rows, Rows, Path | None]:
    """What `ditf compare` does.

    Args:
        params: of the project as it is.
        first, second: results as `TASK`, `TASK/DESCRIPTOR`, or `REVISION:` and one of these.
        out: the drawing to write; None for a name of its own in results/.

    Returns:
        A row per metric with its difference, interval and p; a row per pair, frame or image that changed most; and the
        drawing of these, None where nothing changed or the images are not here.

    Raises:
        UserError: there is no such result, or they are not of the same images.
    """
    with tempfile.TemporaryDirectory() as folder:
        one, other = (_result(params, name, Path(folder) / side) for name, side in ((first, "a"), (second, "b")))
        if one.task.type != other.task.type:
            raise UserError(f"{first} is of type {one.task.type}, {second} of type {other.task.type}")
        before, after = one.metrics(), other.metrics()
        rows: Rows = []
        for name in sorted((name for name in before if name in after), key=lambda name: name != one.task.headline):
            found = difference(before[name], after[name])
            low, high = found.interval or (None, None)
            values = {"first": float(before[name].value()), "second": float(after[name].value())}
            row = {"metric": name, **values, "difference": found.value, "low": low, "high": high}
            rows.append({**row, "p": found.p, "units": found.units})
        if not rows:
            raise UserError(f"{first} and {second} have no metric in common; score both with the same settings")
        old, new = one.parts(), other.parts()
        ranked = sorted(old.keys() & new.keys(), key=lambda part: (-abs(new[part] - old[part]), part))
        changed = [
            {"part": part, "first": old[part], "second": new[part], "difference": new[part] - old[part]}
            for part in ranked[:SHOWN]
            if new[part] != old[part]
        ]
        drawing = None
        if changed:
            drawing = out or drawing_path("compare", first, second)
            try:
                _draw(drawing, params, (one, other), changed, Path(folder))
            except UserError as error:  # the images are not here, such as in a pulled clone
                print(f"nothing is drawn: {error}", file=sys.stderr)
                drawing = None
    return rows, changed, drawing


def _result(params: Params, name: str, folder: Path) -> ComparedResult:
    """A result by its name; one of a revision is fetched into `folder`, from DVC's cache or its remote storage."""
    revision, _, rest = name.rpartition(":")
    key, _, descriptor = rest.partition("/")
    if revision:
        params = _fetch(revision, key, folder)
    else:
        check_entry(params.tasks, key, "tasks")
    task, results = params.tasks[key], folder if revision else RESULTS / key
    if not (results / "tables").is_dir():
        raise UserError(f"{results / 'tables'}: no results yet; run `dvc repro`")
    have = task.predict.descriptors
    if descriptor and descriptor not in have:
        raise UserError(f"{name}: {descriptor!r} is not among the task's descriptors, {', '.join(have)}")
    return ComparedResult(name, task, results, have[have.index(descriptor) if descriptor in have else -1])


def _fetch(revision: str, task: str, folder: Path) -> Params:
    """The tables and predictions of a task at a revision or of an experiment; returns the parameters of then."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    folder.mkdir()
    try:
        files = DVCFileSystem(".", rev=revision)
        (folder / FILE.name).write_bytes(files.read_bytes(FILE.name))
    except (DvcException, SCMError, FileNotFoundError):
        raise UserError(f"{revision}: no revision or experiment with a {FILE}") from None
    params = load_params(folder / FILE.name)
    check_entry(params.tasks, task, f"tasks of {revision}")
    try:
        for name in ("tables", "predictions"):
            files.get(f"{RESULTS}/{task}/{name}", str(folder / name), recursive=True)
    except (DvcException, FileNotFoundError):
        message = f"{revision}: results of {task} are neither in DVC's cache nor in its remote storage; run `dvc repro`"
        raise UserError(message + " there") from None
    return params


def _draw(
    path: Path, params: Params, results: tuple[ComparedResult, ComparedResult], changed: Rows, folder: Path
) -> None:
    """What changed most, a row each: the first result's picture beside the second's."""
    task = results[1].task
    catalog, read = Catalog(CATALOGS / task.dataset), image_reader(params, task.dataset)
    pictures = {}
    for result, side in zip(results, SIDES, strict=True):
        predicted = DrawingInputs(catalog, read, result.folder / "predictions")
        for row in changed:  # as TIFF, which is not compressed
            result.task.draw_unit(folder / "part.tif", predicted, result.descriptor, row["part"])
            pictures[row["part"], side] = read_rgb(folder / "part.tif")
    height, width = next(iter(pictures.values())).shape[:2]
    figure = new_figure(14, len(changed) * (7 * height / width + 0.4))
    for axes, row in zip(figure.subplots(len(changed), 2, squeeze=False), changed, strict=True):
        for cell, result, side in zip(axes, results, SIDES, strict=True):
            show(cell, pictures[row["part"], side], f"{result.name}: {row['part']}   {row[side]:.4g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
