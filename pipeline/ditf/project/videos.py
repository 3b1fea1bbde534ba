"""Videos of a task of type propagation: its masks, their scores, and masks that a user paints."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditf.config.params import Params
from ditf.data.catalog import Catalog
from ditf.data.masks import encode_mask, number_objects, object_values, read_object_mask
from ditf.data.tables import read_table
from ditf.errors import NotFoundError, UserError, suggest
from ditf.features.fusion import open_store
from ditf.project.entries import check_entry
from ditf.project.paths import CATALOGS, FEATURES, RESULTS
from ditf.tasks.propagation import Propagation, SequenceJob, evaluate, frames_of, masks_of, propagate_sequence
from ditf.types import Descriptor

Rows = list[dict[str, Any]]
LARGEST_NUMBER = 21  # of an object: the colours of DAVIS's palette; larger values of a mask are grey levels
MEASURES = {"J&F": "J&F-Mean", "J": "J-Mean", "F": "F-Mean"}


class VideoResults:
    """The sequences of a task of type propagation, with predicted and true masks.

    Args:
        params: Parameters of the project.
        name: Name of the task.

    Raises:
        UserError: There is no such task, or its data set has no catalog yet.
    """

    def __init__(self, params: Params, name: str) -> None:
        self.name, self.task = name, _task(params, name)
        catalog = Catalog(CATALOGS / self.task.dataset)
        self._sequences = {row["sequence"]: row for row in catalog.rows("sequences")}
        self._frames, self._truth = frames_of(catalog), masks_of(catalog)

    def sequences(self, descriptor: str) -> Rows:
        """List the sequences.

        Args:
            descriptor: Descriptor whose masks are scored.

        Returns:
            For each sequence its name, number of frames, number of objects, size in pixels, and scores as fractions;
            None if it is not scored.
        """
        path = RESULTS / self.name / "tables" / "jf_sequences.csv"
        known = self._check(descriptor)
        rows = read_table(path) if path.is_file() and path.stat().st_size else []
        scores = {row["sequence"]: row for row in rows if row["descriptor"] == known}
        return [
            {
                **{key: row[key] for key in ("frames", "objects", "width", "height")},
                "name": name,
                "scores": {short: float(scores[name][column]) for short, column in MEASURES.items()}
                if name in scores
                else None,
            }
            for name, row in self._sequences.items()
        ]

    def sequence(self, name: str, descriptor: str) -> dict[str, Any]:
        """Describe one sequence, as `sequences` does."""
        self._frames_of(name)
        return next(row for row in self.sequences(descriptor) if row["name"] == name)

    def names(self, sequence: str) -> list[str]:
        """Return the names of the frames of a sequence, in order."""
        return [str(frame["name"]) for frame in self._frames_of(sequence)]

    def frames(self, sequence: str, descriptor: str) -> Rows:
        """List the frames of a sequence with the mean scores of its objects.

        Args:
            sequence: Name of the sequence.
            descriptor: Descriptor whose masks are scored.

        Returns:
            For each frame its id, its name, whether it has a true mask, and J&F, J and F as fractions. They are None
            for frames that the benchmark does not score: the first, the last and those without a true mask.
        """
        return self.score(sequence, self._folder(sequence, descriptor))

    def score(self, sequence: str, masks: Path, objects: Collection[int] | None = None) -> Rows:
        """Compare the masks of a sequence in any folder with the true masks.

        Args:
            sequence: Name of the sequence.
            masks: Folder with the mask of every frame, `<frame>.png`.
            objects: Numbers of the objects to score. By default all.

        Returns:
            The frames, as `frames` lists them.
        """
        frames = self._frames_of(sequence)
        scored = [frame for frame in frames[1:-1] if frame["id"] in self._truth]
        scores: dict[str, dict[str, float]] = {}
        if scored:
            pairs = [(self._truth[frame["id"]], masks / f"{frame['name']}.png") for frame in scored]
            first = self._truth[frames[0]["id"]]
            numbers, values = evaluate(pairs, self._sequences[sequence]["objects"], first)
            if objects is not None:
                values = values[[number in objects for number in numbers]]
            for frame, value in zip(scored, values.mean(0) if len(values) else [], strict=bool(len(values))):
                j, f = value.tolist()
                scores[frame["id"]] = {"J&F": (j + f) / 2, "J": j, "F": f}
        return [
            {
                "id": frame["id"],
                "name": frame["name"],
                "true": frame["id"] in self._truth,
                **scores.get(frame["id"], dict.fromkeys(MEASURES)),
            }
            for frame in frames
        ]

    def mask(self, sequence: str, frame: str, descriptor: str) -> bytes:
        """Return the predicted mask of a frame, a PNG with the palette of DAVIS.

        Args:
            sequence: Name of the sequence.
            frame: Name of the frame.
            descriptor: Descriptor of the prediction.
        """
        name = self._frame(sequence, frame)["name"]
        return (self._folder(sequence, descriptor) / f"{name}.png").read_bytes()

    def true_mask(self, sequence: str, frame: str) -> bytes:
        """Return the true mask of a frame, a PNG. Raises `UserError` if it has none."""
        item = self._frame(sequence, frame)["id"]
        if item not in self._truth:
            raise NotFoundError(f"{item}: true mask not found. Choose a frame that the data set annotates.")
        return self._truth[item]

    def _check(self, descriptor: str) -> Descriptor:
        """Return a descriptor of the task. Raises `UserError` for any other."""
        for known in self.task.predict.descriptors:
            if known == descriptor:
                return known
        choices = self.task.predict.descriptors
        raise UserError(f"descriptor: {self.name} has no masks for {descriptor!r}. {suggest(descriptor, choices)}")

    def _frames_of(self, sequence: str) -> Rows:
        """Return the frames of a sequence. Raises `UserError` if there is no such sequence."""
        if sequence not in self._frames:
            raise NotFoundError(f"sequence: {sequence!r} not found. {suggest(sequence, self._frames)}")
        return self._frames[sequence]

    def _frame(self, sequence: str, frame: str) -> dict[str, Any]:
        """Return a frame by its name. Raises `UserError` if there is no such frame."""
        for row in self._frames_of(sequence):
            if row["name"] == frame:
                return row
        raise NotFoundError(f"frame: {frame!r} not found in {sequence}. {suggest(frame, self.names(sequence))}")

    def _folder(self, sequence: str, descriptor: str) -> Path:
        """Return the folder of predicted masks of a sequence. Raises `UserError` if they are not complete."""
        folder = RESULTS / self.name / "predictions" / self._check(descriptor) / sequence
        for frame in self._frames_of(sequence):
            if not (folder / f"{frame['name']}.png").is_file():
                raise NotFoundError(f"{folder / frame['name']}.png: not found. Run `dvc repro predict@{self.name}`.")
        return folder


@dataclass(frozen=True)
class PaintedMask:
    """A mask of the first frame of a sequence, and how it is propagated.

    Attributes:
        task: Task of type propagation. Its features and settings are used.
        descriptor: Descriptor that is compared.
        sequence: Name of the sequence.
        mask: File of the mask; see `ditf.data.masks.read_object_mask`.
        settings: Settings of `PropagationSettings` that differ from those of the task.
    """

    task: str
    descriptor: Descriptor
    sequence: str
    mask: Path
    settings: dict[str, Any]


def propagate_mask(
    params: Params, painted: PaintedMask, folder: Path, report: Callable[[int], object] = lambda frames: None
) -> Rows:
    """Propagate a mask that a user painted, and write the mask of every frame.

    Objects keep their numbers, so that object 2 is compared with the true object 2. The white object of a picture, and
    objects with other values above 21, are numbered from 1.

    Args:
        params: Parameters of the project.
        painted: The mask, and how it is propagated.
        folder: Folder for the masks, `<frame>.png`.
        report: Called after each frame with the number of frames that are written.

    Returns:
        The frames with the scores of the painted objects, as `VideoResults.frames` lists them.

    Raises:
        UserError: The mask is not a mask of the first frame, or the features are missing.
    """
    from ditf.propagation.voting import PropagationConfig  # here, because it imports torch

    task = _task(params, painted.task)
    videos, store = VideoResults(params, painted.task), open_store(FEATURES / task.features)
    frames = [(frame["id"], frame["name"]) for frame in videos._frames_of(painted.sequence)]
    row = videos._sequences[painted.sequence]
    mask = read_object_mask(painted.mask)
    height, width = mask.shape
    if (width, height) != (row["width"], row["height"]):
        raise UserError(
            f"mask: {width}x{height} pixels, but the frames of {painted.sequence} have "
            f"{row['width']}x{row['height']}. Resize the mask without interpolation."
        )
    values = object_values(mask)
    if not values:
        raise UserError("mask: shows no object. Paint the objects to follow.")
    if max(values) > LARGEST_NUMBER:
        mask, values = number_objects(mask, values), list(range(1, len(values) + 1))
    p = task.predict.model_copy(update=painted.settings)
    last_frames = min(p.n_last_frames, row["context_limit"] or p.n_last_frames)
    config = PropagationConfig(p.topk, p.temperature, last_frames, p.size_mask_neighborhood)
    job = SequenceJob(store, p.block, painted.descriptor, p.discarded(store), frames, encode_mask(mask))
    propagate_sequence(job, config, folder, report)
    return videos.score(painted.sequence, folder, values)


def _task(params: Params, name: str) -> Propagation:
    """Return a task of type propagation. Raises `UserError` if there is no such task."""
    tasks = {key: task for key, task in params.tasks.items() if isinstance(task, Propagation)}
    check_entry(tasks, name, "tasks, of type propagation,")
    return tasks[name]
