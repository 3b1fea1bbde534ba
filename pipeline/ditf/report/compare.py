"""Comparison of two results for the same images: the paired difference of each metric, and what changed most."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ditf.config.params import FILE, Params, load_params
from ditf.data.catalog import Catalog
from ditf.drawing.figures import new_figure, save, show
from ditf.errors import UserError, suggest
from ditf.metrics.display import in_percent
from ditf.metrics.intervals import UnitSums, difference, read_units
from ditf.project.entries import check_entry, image_reader
from ditf.project.paths import CATALOGS, RESULTS, drawing_path
from ditf.tasks.base import DrawingInputs, Task
from ditf.types import Descriptor

SHOWN = 6  # units that changed most
SIDES = ("first", "second")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class ComparedResult:
    """One of the two results.

    Attributes:
        name: The name that the user gave, such as "HEAD~1:spair-flux".
        task: The entry of `tasks`.
        folder: Folder of the task's results.
        descriptor: The descriptor whose results are compared.
    """

    name: str
    task: Task
    folder: Path
    descriptor: Descriptor

    def metrics(self) -> dict[str, UnitSums]:
        """Return every metric that is known by pair, sequence or image.

        Raises:
            UserError: The task has no such metrics.
        """
        metrics = read_units(self.folder / "tables").get(self.descriptor)
        if not metrics:
            raise UserError(f"{self.name}: a task of type {self.task.type} has no results by pair, sequence or image")
        return metrics

    def unit_scores(self) -> dict[str, float]:
        """Return the score of each unit that the task can draw."""
        return self.task.unit_scores(self.folder / "tables", self.descriptor)


def compare(params: Params, first: str, second: str, out: Path | None) -> tuple[Rows, Rows, Path | None]:
    """Compare two results.

    Args:
        params: Parameters of the project as it is now.
        first: `TASK` or `TASK/DESCRIPTOR`, optionally after `REVISION:`.
        second: The other result, named in the same way.
        out: Image file for the drawing, or None for a file in results/drawings/.

    Returns:
        A row per metric with its difference, interval and p-value; a row per pair, frame or image that changed most;
        and the path of the drawing, or None if nothing changed or the images are not available.

    Raises:
        UserError: A result does not exist, or the results are not for the same images.
    """
    with tempfile.TemporaryDirectory() as folder:
        one, other = (_result(params, name, Path(folder) / side) for name, side in ((first, "a"), (second, "b")))
        if one.task.type != other.task.type:
            raise UserError(f"{first} is of type {one.task.type}, {second} of type {other.task.type}")
        metrics = _compare_metrics(one, other)
        if not metrics:
            raise UserError(f"{first} and {second} have no metric in common. Score both with the same settings.")
        changed = _most_changed(one.unit_scores(), other.unit_scores())
        drawing = None
        if changed:
            drawing = out or drawing_path("compare", first, second)
            try:
                _draw(drawing, params, (one, other), changed, Path(folder))
            except UserError as error:  # the images are not available, such as in a clone without data
                print(f"nothing is drawn: {error}", file=sys.stderr)
                drawing = None
    return metrics, changed, drawing


def _compare_metrics(one: ComparedResult, other: ComparedResult) -> Rows:
    """Return a row per metric that both results have, the headline metric first."""
    before, after = one.metrics(), other.metrics()
    rows: Rows = []
    for name in sorted((name for name in before if name in after), key=lambda name: name != one.task.headline):
        test = difference(before[name], after[name])
        low, high = test.interval or (None, None)
        values = {"first": float(before[name].value()), "second": float(after[name].value())}
        row = {"metric": name, **values, "difference": test.value, "low": low, "high": high}
        rows.append({**row, "p": test.p, "units": test.units})
    return rows


def _most_changed(before: dict[str, float], after: dict[str, float]) -> Rows:
    """Return the units whose scores changed most, the greatest change first."""
    ranked = sorted(before.keys() & after.keys(), key=lambda unit: (-abs(after[unit] - before[unit]), unit))
    return [
        {"unit": unit, "first": before[unit], "second": after[unit], "difference": after[unit] - before[unit]}
        for unit in ranked[:SHOWN]
        if after[unit] != before[unit]
    ]


def _result(params: Params, name: str, folder: Path) -> ComparedResult:
    """Return a result by its name. A result of another revision is fetched into `folder`."""
    revision, _, entry = name.rpartition(":")
    key, _, descriptor = entry.partition("/")
    if revision:
        params = _fetch(revision, key, folder)
    else:
        check_entry(params.tasks, key, "tasks")
    task, results = params.tasks[key], folder if revision else RESULTS / key
    if not (results / "tables").is_dir():
        raise UserError(f"{results / 'tables'}: no results yet. Run `dvc repro`.")
    descriptors = task.predict.descriptors
    if descriptor and descriptor not in descriptors:
        raise UserError(f"{name}: {descriptor!r} is not a descriptor of the task. {suggest(descriptor, descriptors)}")
    return ComparedResult(name, task, results, next((d for d in descriptors if d == descriptor), descriptors[-1]))


def _fetch(revision: str, task: str, folder: Path) -> Params:
    """Copy the tables and predictions of a task at a revision into `folder`.

    Args:
        revision: A commit, branch or tag of git, or an experiment of DVC.
        task: An entry of `tasks` at that revision.
        folder: A folder that does not exist yet.

    Returns:
        The parameters at that revision.

    Raises:
        UserError: The revision does not exist, or its results are neither in DVC's cache nor in its remote storage.
    """
    from dvc.api import DVCFileSystem  # here, since it takes half a second, which most comparisons do not need
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
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
    except (DvcException, DataIndexDirError, OSError):
        raise UserError(
            f"{revision}: results of {task} are neither in DVC's cache nor in its remote storage. Run `dvc pull "
            f"--all-commits`, or check out {revision} and run `dvc repro`."
        ) from None
    return params


def _draw(
    path: Path, params: Params, results: tuple[ComparedResult, ComparedResult], changed: Rows, folder: Path
) -> None:
    """Draw the units that changed most, a row each: the first result's picture beside the second's."""
    task = results[1].task
    catalog, read = Catalog(CATALOGS / task.dataset), image_reader(params, task.dataset)
    pictures = {}
    for result, side in zip(results, SIDES, strict=True):
        inputs = DrawingInputs(catalog, read, result.folder / "predictions")
        for row in changed:
            result.task.draw_unit(folder / "unit.png", inputs, result.descriptor, row["unit"])
            with Image.open(folder / "unit.png") as picture:
                pictures[row["unit"], side] = np.asarray(picture)
    shapes = [pictures[row["unit"], SIDES[0]].shape for row in changed]
    heights = [6 * shape[0] / shape[1] + 0.5 for shape in shapes]
    figure = new_figure(12, sum(heights))
    grid = figure.subplots(len(changed), 2, squeeze=False, height_ratios=heights)
    for axes, row in zip(grid, changed, strict=True):
        for cell, result, side in zip(axes, results, SIDES, strict=True):
            score = in_percent(task.headline, row[side])
            show(cell, pictures[row["unit"], side], f"{result.name}: {score:.1f} %")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
