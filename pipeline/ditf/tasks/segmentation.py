"""Semantic segmentation with a linear probe on cached features: batch normalization and one linear layer.

Protocol: linear evaluation on ADE20K, as for DINOv2 (Oquab et al., arXiv 2304.07193).
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
from pydantic import Field, FiniteFloat
from tqdm import tqdm

from ditf.data.catalog import Catalog
from ditf.data.images import shrink
from ditf.data.masks import Mask, decode_mask, read_index_mask, save_mask
from ditf.data.tables import read_table, write_table
from ditf.drawing import charts
from ditf.drawing.features import draw_feature_colours
from ditf.drawing.figures import contact_sheet, label
from ditf.drawing.masks import colour_of, overlay
from ditf.errors import UserError
from ditf.features.reader import FeatureReader
from ditf.metrics import intervals
from ditf.metrics.classes import by_image, confusion, summarize
from ditf.metrics.protocols import Protocol, TokenLabels, probe_protocol
from ditf.settings import Settings
from ditf.tasks.base import DescriptorSettings, DrawingInputs, Metrics, Scores, Task
from ditf.types import Descriptor

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

IGNORED = 255  # class of pixels that are neither learned nor scored
SHOWN = 4  # images drawn
SHOWN_SIDE = 320  # longer side of a drawn image in pixels
MOST_CLASSES = 12  # classes in a legend


class ProbeSettings(DescriptorSettings):
    """Settings of the descriptors and of the training of a probe.

    Attributes:
        epochs: Passes over all training images.
        batch: Tokens per step.
        rate: Initial learning rate of AdamW, which follows a cosine schedule.
        decay: Weight decay of AdamW.
        seed: Seed of the weights, of the order of tokens and of the pixels.
        labels: What the probe learns from: "pixels" for random pixels of the mask, where logits are interpolated as if
            they were upsampled to the mask; "majority" for the most frequent class of each token's pixels; "centre" for
            the class at the centre of each token.
    """

    epochs: int = Field(default=10, ge=1, le=10_000)
    batch: int = Field(default=4096, ge=2)
    rate: FiniteFloat = Field(default=1e-3, gt=0)
    decay: FiniteFloat = Field(default=1e-2, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    labels: TokenLabels = "pixels"


class MaskSettings(Settings):
    """Settings of the comparison of masks.

    Attributes:
        resolution: Side in pixels of the square to which true and predicted masks are resized by nearest neighbour,
            such as 448; null for the size of each image.
    """

    resolution: int | None = Field(default=None, ge=1, le=4096)


class Segmentation(Task):
    """Semantic segmentation with one linear probe per descriptor.

    Attributes:
        predict: Settings of the descriptors and of the training.
        score: Settings of the comparison of masks.
    """

    version: ClassVar[int] = 2

    predict: ProbeSettings
    score: MaskSettings = MaskSettings()

    @property
    def headline(self) -> str:
        return "mIoU"

    def protocol(self, catalog: Catalog) -> Protocol:
        return probe_protocol(self.predict.labels, self.score.resolution)

    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        from ditf.segmentation import linear_probe as probe

        p, channels = self.predict, self.predict.discarded(store)
        rows, masks = catalog.rows("images"), {row["id"]: row["png"] for row in catalog.rows("masks")}
        first, classes = _classes(catalog)
        splits = {split: [row["id"] for row in rows if row["category"] == split] for split in ("train", "test")}
        for split, images in splits.items():
            if not images:
                raise UserError(f"{catalog.folder}: no image is in the split {split}. Add images to it.")
        for descriptor in p.descriptors:
            out = folder / descriptor

            def read(
                item: str, rng: np.random.Generator, descriptor: Descriptor = descriptor
            ) -> tuple[np.ndarray, np.ndarray]:
                features = store.features(p.block, item)
                truth = classes_of(decode_mask(masks[item], Path(item)), first, classes)
                tokens = features.descriptors(descriptor, channels)
                if p.labels == "pixels":
                    return probe.sample_pixels(tokens, truth, features.grid, rng)
                if p.labels == "majority":
                    return tokens, probe.most_frequent_classes(truth, features.grid, classes)
                return tokens, probe.classes_at_centres(truth, features.grid)

            training = probe.ProbeTraining(p.epochs, p.batch, p.rate, p.decay, p.seed)
            trained = probe.train(splits["train"], read, store.channels(p.block), classes, training)
            out.mkdir(parents=True)
            for item in tqdm(splits["test"], descriptor, unit="image", delay=1):
                features = store.features(p.block, item)
                tokens = features.descriptors(descriptor, channels)
                predicted = probe.segment(trained, tokens, features.grid, features.size)
                path = out / f"{item}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_mask(path, (predicted.astype(int) + first).astype(np.uint8))

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        first, classes = _classes(catalog)
        splits = {row["id"]: row["category"] for row in catalog.rows("images")}
        masks = {row["id"]: row["png"] for row in catalog.rows("masks") if splits[row["id"]] == "test"}
        metrics, bars, tables = Metrics(), dict[str, float](), []
        units: list[intervals.Contribution] = []
        for descriptor in self.predict.descriptors:
            counts = []
            for item, png in tqdm(masks.items(), descriptor, unit="image", delay=2):
                path = predictions / descriptor / f"{item}.png"
                truth = classes_of(decode_mask(png, path), first, classes)
                predicted = classes_of(read_index_mask(path), first, classes)
                if side := self.score.resolution:
                    truth, predicted = (
                        cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
                        for mask in (truth, predicted)
                    )
                counts.append(confusion(truth, predicted, classes))
                units += [(descriptor, *row) for row in by_image(item, counts[-1])]
            if not np.any(counts):
                raise UserError(
                    f"{catalog.folder}: no test mask shows one of the classes. Check the masks and `classes`."
                )
            summary, rows = summarize(counts)
            metrics[descriptor] = {name: round(value, 2) for name, value in summary.items()}
            bars[descriptor] = summary["mIoU"]
            tables += [{"descriptor": descriptor, **row, "class": row["class"] + first} for row in rows]
        write_table(folder / "classes.csv", tables)
        intervals.write_units(folder, units)
        return Scores(metrics, bars)

    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Draw a few images with their true and their predicted classes, and features as colours."""
        descriptor = self.predict.descriptors[-1]
        names = [row["id"] for row in predicted.catalog.rows("images") if row["category"] == "test"][:SHOWN]
        self._draw_classes(folder / "classes.png", predicted, descriptor, names)
        draw_feature_colours(folder / "features.png", predicted.read, store, names, self.predict, descriptor)

    def _draw_classes(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, items: list[str]) -> None:
        """Draw images under their true and their predicted classes, a row each, with a legend of the classes."""
        masks = {row["id"]: row["png"] for row in predicted.catalog.rows("masks") if row["id"] in items}
        tiles, present = [], set[int]()
        for item in items:
            image, truth = predicted.read(item), decode_mask(masks[item], Path(item))
            answer = read_index_mask(predicted.folder / descriptor / f"{item}.png")
            for title, mask in (("true", truth), ("predicted", answer)):
                tiles.append(label(shrink(overlay(image, mask), SHOWN_SIDE), title, 22))
                present |= set(np.unique(mask).tolist())
        names = {row["index"]: row["name"] for row in predicted.catalog.rows("classes")}
        legend = [(colour_of(index), names[index]) for index in sorted(present) if index in names]
        contact_sheet(path, tiles, 2, SHOWN_SIDE, legend[:MOST_CLASSES])

    def unit_scores(self, tables: Path, descriptor: Descriptor) -> dict[str, float]:
        """Return the pixel accuracy of each image, since its mean over classes depends on which classes it shows."""
        return intervals.read_units(tables)[descriptor]["pixel accuracy"].by_unit()

    def draw_unit(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, unit: str) -> None:
        """Draw an image under its true and its predicted classes."""
        self._draw_classes(path, predicted, descriptor, [unit])

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """Return a chart of the IoU of each class for the last descriptor, from the best to the worst."""
        last = self.predict.descriptors[-1]
        rows = [row for row in read_table(tables / "classes.csv") if row["descriptor"] == last]
        ranked = sorted(((row["class"], float(row["iou"])) for row in rows), key=lambda pair: -pair[1])
        return {f"IoU by class ({last})": charts.bars(dict(ranked), "IoU in percent")}


def classes_of(mask: Mask, first: int, classes: int) -> Mask:
    """Count the classes of a mask from 0.

    Args:
        mask: Index mask, uint8 [height, width].
        first: Index of the first class in the mask.
        classes: Number of classes.

    Returns:
        Classes, uint8 [height, width]. Pixels without a class get 255.
    """
    shifted = mask.astype(int) - first
    return np.where((shifted >= 0) & (shifted < classes), shifted, IGNORED).astype(np.uint8)


def _classes(catalog: Catalog) -> tuple[int, int]:
    """Return the index of the first class in masks, and the number of classes."""
    rows = catalog.rows("classes")
    return min(row["index"] for row in rows), len(rows)
