"""Video object segmentation: propagate the first mask of each sequence through its frames, and score J and F.

Protocol: DAVIS-2017 (Pont-Tuset et al., arXiv 1704.00675), by label propagation as in DINO (arXiv 2104.14294).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from tqdm import tqdm

from ditf.data.catalog import Catalog, Row
from ditf.data.images import RGB, shrink
from ditf.data.masks import decode_mask, read_index_mask, save_mask
from ditf.data.tables import read_table, write_table
from ditf.drawing import charts
from ditf.drawing.features import draw_feature_colours
from ditf.drawing.figures import contact_sheet, label, spread
from ditf.drawing.masks import animation, object_legend, overlay
from ditf.features.reader import FeatureReader
from ditf.metrics import intervals
from ditf.metrics.protocols import OBJECT_MASKS, Protocol
from ditf.metrics.segmentation import evaluate_frame, summarize
from ditf.settings import Settings
from ditf.tasks.base import DescriptorSettings, DrawingInputs, Metrics, Scores, Task
from ditf.types import Descriptor
from ditf.workers import cores, run

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

    from ditf.propagation.voting import PropagationConfig

SHEET_COLUMNS, SHEET_FRAMES = 3, 9
MOST_OBJECTS = 12  # in a legend
FRAME_SIDE = 480  # longer side of a frame in contact sheets and animations


class PropagationSettings(DescriptorSettings):
    """Settings of label propagation. The defaults are the values of the paper.

    Attributes:
        topk: Most similar source tokens that vote for each token.
        temperature: Temperature of the weights of the votes.
        n_last_frames: Preceding frames that are sources besides the first frame.
        size_mask_neighborhood: Greatest distance in rows and columns between a token and its sources. 0 means no limit.
    """

    topk: int = Field(default=5, ge=1)
    temperature: FiniteFloat = Field(default=0.1, gt=0)
    n_last_frames: int = Field(default=7, ge=0)
    size_mask_neighborhood: int = Field(default=12, ge=0)


class Propagation(Task):
    """Video object segmentation by label propagation.

    Attributes:
        predict: Settings of label propagation.
        score: Not used.
    """

    predict: PropagationSettings
    score: Settings = Settings()

    @property
    def headline(self) -> str:
        return "J&F"

    def protocol(self, catalog: Catalog) -> Protocol:
        return OBJECT_MASKS

    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        """Write masks as `<descriptor>/<sequence>/<frame>.png`, with the true first mask."""
        from ditf.propagation.voting import PropagationConfig  # here, because it imports torch

        p, frames, first_masks = self.predict, frames_of(catalog), masks_of(catalog)
        channels = p.discarded(store)

        def tasks() -> Iterator[tuple[str, tuple[Any, ...]]]:
            for descriptor in p.descriptors:
                for row in catalog.rows("sequences"):
                    name, limit = row["sequence"], row["context_limit"] or p.n_last_frames
                    last_frames = min(p.n_last_frames, limit)
                    config = PropagationConfig(p.topk, p.temperature, last_frames, p.size_mask_neighborhood)
                    names = [(frame["id"], frame["name"]) for frame in frames[name]]
                    job = SequenceJob(store, p.block, descriptor, channels, names, first_masks[names[0][0]])
                    yield f"{descriptor}/{name}", (job, config, folder.resolve() / descriptor / name)

        total = len(p.descriptors) * sum(map(len, frames.values()))
        with tqdm(desc="propagation", total=total, unit="frame", delay=2) as bar:
            for _, count in run(client, propagate_sequence, tasks()):
                bar.update(count)

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        """Score the frames that have a true mask, without the first and the last frame.

        Returns no metrics if there are no such frames, as in DAVIS's split test-dev.
        """
        truth, frames = masks_of(catalog), frames_of(catalog)
        scored = {
            name: [frame["name"] for frame in rows[1:-1] if frame["id"] in truth] for name, rows in frames.items()
        }
        if unscored := [name for name, names in scored.items() if not names]:
            shown = ", ".join(unscored[:5]) + (f" and {len(unscored) - 5} more" if len(unscored) > 5 else "")
            print(f"{shown}: no true mask between the first and the last frame; not scored")
        if len(unscored) == len(scored):
            masks = predictions / self.predict.descriptors[-1]
            print(f"The predicted masks are palette PNGs, as evaluation servers expect them: {masks}/<sequence>/*.png")
            return Scores({}, {})
        metrics: Metrics = {}
        tables: dict[str, list[Row]] = {"all": [], "sequences": [], "objects": [], "frames": []}
        units: list[intervals.Contribution] = []
        for descriptor in self.predict.descriptors:
            by_object: dict[str, NDArray[np.float64]] = {}
            for sequence, (numbers, values) in measure(catalog, scored, predictions / descriptor):
                if not numbers:
                    print(f"{sequence}: its masks show no object; not scored")
                    continue
                objects = {f"{sequence}_{number}": each for number, each in zip(numbers, values, strict=True)}
                by_object |= objects
                tables["sequences"].append({"descriptor": descriptor, "sequence": sequence, **summarize(objects)})
                tables["frames"] += [
                    {"descriptor": descriptor, "sequence": sequence, "frame": name, "J&F": float(value)}
                    for name, value in zip(scored[sequence], values.mean((0, 2)), strict=True)
                ]
                totals = {"J&F": values.mean(2), "J": values[..., 0], "F": values[..., 1]}
                units += [
                    (descriptor, name, sequence, "", float(each.mean(1).sum()), float(len(values)))
                    for name, each in totals.items()
                ]
            if not by_object:
                return Scores({}, {})
            tables["objects"] += [
                {"descriptor": descriptor, "object": name, **summarize({name: each})}
                for name, each in by_object.items()
            ]
            summary = summarize(by_object)
            tables["all"].append({"descriptor": descriptor, **summary})
            names = {"J&F": "J&F-Mean", "J": "J-Mean", "F": "F-Mean"}
            metrics[descriptor] = {short: round(summary[name], 4) for short, name in names.items()}
        for name, rows in tables.items():
            write_table(folder / f"jf_{name}.csv", rows)
        intervals.write_units(folder, units)
        last = self.predict.descriptors[-1]
        bars = {row["sequence"]: row["J&F-Mean"] for row in tables["sequences"] if row["descriptor"] == last}
        return Scores(metrics, bars)

    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Draw each sequence as a contact sheet and an animation, and features as colours."""
        descriptor, frames = self.predict.descriptors[-1], frames_of(predicted.catalog)
        objects = {row["sequence"]: row["objects"] for row in predicted.catalog.rows("sequences")}
        truth = masks_of(predicted.catalog)
        for sequence, rows in tqdm(frames.items(), "drawing", unit="sequence", delay=2):
            images = [_draw_frame(predicted, descriptor, sequence, row, truth.get(row["id"])) for row in rows]
            legend = object_legend(min(objects[sequence], MOST_OBJECTS), any(row["id"] in truth for row in rows))
            contact_sheet(folder / f"{sequence}.png", spread(images, SHEET_FRAMES), SHEET_COLUMNS, legend=legend)
            animation(folder / f"{sequence}.gif", images)
        names = [rows[n]["id"] for rows in frames.values() for n in dict.fromkeys((0, len(rows) // 2))]
        draw_feature_colours(folder / "features.png", predicted.read, store, names, self.predict, descriptor)

    def unit_scores(self, tables: Path, descriptor: Descriptor) -> dict[str, float]:
        """Return J&F of each frame, named `<sequence>/<frame>`."""
        rows = [row for row in read_table(tables / "jf_frames.csv") if row["descriptor"] == descriptor]
        return {f"{row['sequence']}/{row['frame']}": float(row["J&F"]) for row in rows}

    def draw_unit(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, unit: str) -> None:
        """Draw a frame under its predicted mask, with the true outlines."""
        sequence, name = unit.rsplit("/", 1)
        frame = next(row for row in frames_of(predicted.catalog)[sequence] if row["name"] == name)
        truth = masks_of(predicted.catalog).get(frame["id"])
        image = _draw_frame(predicted, descriptor, sequence, frame, truth)
        contact_sheet(path, [image], 1, FRAME_SIDE)

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """Return a chart of J&F of each sequence for the last descriptor, from the best to the worst."""
        last = self.predict.descriptors[-1]
        rows = [row for row in read_table(tables / "jf_sequences.csv") if row["descriptor"] == last]
        if not rows:
            return {}
        values = {row["sequence"]: 100 * float(row["J&F-Mean"]) for row in rows}
        ranked = dict(sorted(values.items(), key=lambda pair: -pair[1]))
        return {f"J&F by sequence ({last})": charts.bars(ranked, "J&F in percent")}


def _draw_frame(
    predicted: DrawingInputs, descriptor: Descriptor, sequence: str, frame: Row, truth: bytes | None
) -> RGB:
    """Return a frame under its predicted mask, with its name and, where known, the true outlines.

    Args:
        predicted: Predictions and images.
        descriptor: The descriptor whose mask is drawn.
        sequence: Name of the sequence.
        frame: Row of the catalog's table `frames`.
        truth: Bytes of the true mask's PNG, or None.
    """
    path = predicted.folder / descriptor / sequence / f"{frame['name']}.png"
    true_mask = decode_mask(truth, path) if truth else None
    image = shrink(overlay(predicted.read(frame["id"]), read_index_mask(path), true_mask), FRAME_SIDE)
    return label(image, f"frame {frame['name']}", max(12, max(image.shape) // 12))


@dataclass(frozen=True)
class SequenceJob:
    """Features and first mask of a sequence.

    Attributes:
        store: Features of the frames.
        block: Block of the model.
        descriptor: Descriptor that is compared.
        channels: Massive channels, for descriptors with "+discard".
        frames: Id and file name of each frame, in order.
        first_mask: PNG of the first mask.
    """

    store: FeatureReader
    block: int
    descriptor: Descriptor
    channels: list[int]
    frames: list[tuple[str, str]]
    first_mask: bytes


def propagate_sequence(
    job: SequenceJob,
    config: "PropagationConfig",
    folder: Path,
    report: Callable[[int], object] = lambda frames: None,
) -> int:
    """Propagate the first mask of a sequence and write the mask of every frame.

    Args:
        job: Features and first mask of the sequence.
        config: How labels are propagated.
        folder: Folder for the masks, `<frame>.png`.
        report: Called after each frame with the number of frames that are written.

    Returns:
        The number of frames.
    """
    from ditf.backbones.device import choose
    from ditf.propagation.labels import first_labels, hard_mask
    from ditf.propagation.propagate import propagate

    (first_id, first_name), *later = job.frames
    folder.mkdir(parents=True, exist_ok=True)
    mask = decode_mask(job.first_mask, folder / first_name)
    save_mask(folder / f"{first_name}.png", mask)
    maps = (job.store.features(job.block, item).descriptors(job.descriptor, job.channels) for item, _ in job.frames)
    labels = first_labels(mask, job.store.grid(first_id, job.block))
    size, stride, device = (mask.shape[1], mask.shape[0]), job.store.stride(job.block), choose("auto", "auto")[0]
    report(1)
    for number, ((_, name), soft) in enumerate(zip(later, propagate(maps, labels, config, device), strict=True), 2):
        save_mask(folder / f"{name}.png", hard_mask(soft, size, stride))
        report(number)
    return len(job.frames)


def measure(
    catalog: Catalog, scored: Mapping[str, Sequence[str]], predictions: Path
) -> Iterator[tuple[str, tuple[list[int], NDArray[np.float64]]]]:
    """Score the predicted masks of every sequence.

    Args:
        catalog: Catalog with the sequences, frames and true masks.
        scored: Names of the frames to score, by sequence. A sequence without any is left out.
        predictions: Folder with the masks, `<sequence>/<frame>.png`.

    Yields:
        Name of a sequence, and the result of `evaluate`.
    """
    truth, frames = masks_of(catalog), frames_of(catalog)

    def tasks() -> Iterator[tuple[str, tuple[Any, ...]]]:
        for row in catalog.rows("sequences"):
            ids = {frame["name"]: frame["id"] for frame in frames[row["sequence"]]}
            folder, names = predictions / row["sequence"], scored[row["sequence"]]
            if names:
                pairs = [(truth[ids[name]], folder / f"{name}.png") for name in names]
                first = truth[frames[row["sequence"]][0]["id"]]
                yield row["sequence"], (pairs, row["objects"], first)

    with tqdm(desc="J and F", total=len(frames), unit="sequence", delay=2) as bar:
        for result in run(None, evaluate, tasks(), cores()):
            bar.update()
            yield result


def evaluate(frames: list[tuple[bytes, Path]], objects: int, first: bytes) -> tuple[list[int], NDArray[np.float64]]:
    """Compute J and F of the objects of one sequence.

    Args:
        frames: For each frame, the true mask as the bytes of a PNG, and the path of the predicted mask.
        objects: Largest index of an object in the masks.
        first: First mask of the sequence as the bytes of a PNG.

    Returns:
        Indices of the objects that any mask shows, and their J and F as fractions, [objects, frames, 2].
    """
    masks = [(decode_mask(true, path), read_index_mask(path)) for true, path in frames]
    shown = np.unique(np.concatenate([np.unique(mask) for pair in masks for mask in pair]))
    shown = np.union1d(shown, decode_mask(first, Path("first mask")))
    numbers = [number for number in range(1, objects + 1) if number in shown]
    values = np.stack([evaluate_frame(true, predicted, objects) for true, predicted in masks], 1)
    return numbers, values[[number - 1 for number in numbers]]


def frames_of(catalog: Catalog) -> dict[str, list[Row]]:
    """Group the rows of the catalog's table of frames by sequence."""
    rows = catalog.rows("frames")
    return {name: list(group) for name, group in itertools.groupby(rows, lambda row: row["sequence"])}


def masks_of(catalog: Catalog) -> dict[str, bytes]:
    """Return the true masks as the bytes of PNGs, by the id of their frame."""
    return {row["id"]: row["png"] for row in catalog.rows("masks")}
