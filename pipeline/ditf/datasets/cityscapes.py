"""Cityscapes (Cordts et al., arXiv 1604.01685) with its fine annotations."""

from pathlib import Path

import numpy as np

from ditf.data.catalog import Tables
from ditf.data.class_masks import Classes, MaskedImage, class_tables
from ditf.data.masks import VOID, Mask, read_index_mask
from ditf.data.reading import DatasetReader
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

IMAGE_END, TRAIN_ID_END, LABEL_ID_END = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
TRAINING_IMAGES, VALIDATION_IMAGES = 2_975, 500
SPLITS = {"train": "train", "val": "test"}
# The classes that are scored, by label id. Their order gives the train ids 0..18: `helpers/labels.py` of
# https://github.com/mcordts/cityscapesScripts.
LABELS = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
LAST_LABEL_ID = max(LABELS)


class Cityscapes(Dataset):
    """Images of Cityscapes to train a probe on (train) and images to score (val), each with a mask of class indices.

    Layout, as in the packages `leftImg8bit_trainvaltest` and `gtFine_trainvaltest` of the release at
    https://www.cityscapes-dataset.com: `leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`, and masks in
    `gtFine/<split>/<city>/`. A mask is `<name>_gtFine_labelTrainIds.png`, which `csCreateTrainIdLabelImgs` makes. Where
    it is missing, `<name>_gtFine_labelIds.png` of the release is read, and its label ids become the 19 train ids. Other
    labels are 255, which is not scored.

    Attributes:
        prompt: Prompt of all images.
    """

    prompt: str = ""

    @property
    def release(self) -> Release:
        sizes = TRAINING_IMAGES, VALIDATION_IMAGES
        return Release.for_probe(*sizes, (2048, 1024), "longer", "Cityscapes val", len(LABELS))

    def counts(self) -> dict[str, int]:
        """Count the images that have a mask."""
        counts = {}
        for label, split in (("training images", "train"), ("validation images", "val")):
            images = _names(Path(self.root, "leftImg8bit", split), IMAGE_END)
            masks = Path(self.root, "gtFine", split)
            counts[label] = len(images & (_names(masks, TRAIN_ID_END) | _names(masks, LABEL_ID_END)))
        return counts

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        items = [item for split in SPLITS for item in _items(reader, split)]
        return class_tables(reader, items, Classes(tuple(LABELS.values())), self.prompt, "longer")


def _items(reader: DatasetReader, split: str) -> list[MaskedImage]:
    """Return the images of a split. Raises `UserError` if there are none."""
    folder = reader.root / "leftImg8bit" / split
    items = []
    for path in reader.files(folder, (".png",), recursive=True):
        if not path.name.lower().endswith(IMAGE_END.lower()):
            reader.leave_out(path, f"not named like <name>{IMAGE_END}")
            continue
        name = f"{path.parent.relative_to(folder).as_posix()}/{path.name[: -len(IMAGE_END)]}"
        mask, decode = reader.locate(f"gtFine/{split}/{name}{TRAIN_ID_END}"), None
        if not mask.exists():
            mask, decode = reader.locate(f"gtFine/{split}/{name}{LABEL_ID_END}"), train_ids
        items.append(MaskedImage(f"{split}/{name}", SPLITS[split], path, mask, decode))
    if not items:
        raise UserError(f"{folder}: has no images; is {reader.root} the folder of Cityscapes? Correct `root`.")
    return items


def _names(folder: Path, end: str) -> set[str]:
    """Return `<city>/<name>` of the files in a folder of cities whose names end alike."""
    return {path.relative_to(folder).as_posix().removesuffix(end) for path in folder.glob(f"*/*{end}")}


def train_ids(path: Path) -> Mask:
    """Read a mask of label ids.

    Args:
        path: A file `<name>_gtFine_labelIds.png`.

    Returns:
        The train ids, uint8 [height, width]; 255 for labels that are not scored.

    Raises:
        UserError: The file is not a mask, or has an index that is not a label id.
    """
    labels = read_index_mask(path)
    if np.any((labels > LAST_LABEL_ID) & (labels < VOID)):
        largest = labels[labels < VOID].max()
        raise UserError(f"{path}: has the index {largest}, but label ids end at {LAST_LABEL_ID}. Restore the file.")
    table = np.full(256, VOID, np.uint8)
    table[list(LABELS)] = np.arange(len(LABELS))
    return np.asarray(table[labels])
