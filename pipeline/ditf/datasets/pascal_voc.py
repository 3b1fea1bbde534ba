"""Semantic segmentation of Pascal VOC 2012 (Everingham et al., IJCV 2015), and its training list of 10,582 images.

The longer training list adds masks of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011).
"""

from pydantic import Field

from ditf.data.catalog import Tables
from ditf.data.class_masks import Classes, MaskedImage, class_tables
from ditf.data.reading import DatasetReader, read_text
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

LISTS = "ImageSets/Segmentation"
MASKS, ADDED_MASKS = "SegmentationClass", "SegmentationClassAug"
CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
TRAINING_IMAGES = {"train": 1_464, "trainaug": 10_582}
VALIDATION_IMAGES = 1_449
LIST_NAME = r"^[\w-]+$"


class PascalVOC(Dataset):
    """Images of Pascal VOC 2012 to train a probe on and images to score, each with a mask of class indices.

    Layout, as in the folder `VOCdevkit/VOC2012` of the release at http://host.robots.ox.ac.uk/pascal/VOC/voc2012:
    `JPEGImages/<name>.jpg`, masks in `SegmentationClass/<name>.png`, and the names of a part's images in
    `ImageSets/Segmentation/<list>.txt`. An image without a mask in `SegmentationClass` has one in
    `SegmentationClassAug`, which together with the list `trainaug` has the masks of the Semantic Boundaries Dataset.
    Masks hold 0 for the background, classes from 1 to 20, and 255 where nothing is scored.

    Attributes:
        train: List of the images to train on: `train`, `trainaug` or another list.
        test: List of the images to score.
        prompt: Prompt of all images.
    """

    train: str = Field(default="train", pattern=LIST_NAME)
    test: str = Field(default="val", pattern=LIST_NAME)
    prompt: str = ""

    @property
    def is_test(self) -> bool:
        return self.test == "val"

    @property
    def release(self) -> Release | None:
        if self.train not in TRAINING_IMAGES or self.test != "val":
            return None
        title = f"Pascal VOC 2012 val, trained on {self.train}"
        training = TRAINING_IMAGES[self.train]
        return Release.for_probe(training, VALIDATION_IMAGES, (500, 375), "longer", title, len(CLASSES))

    def counts(self) -> dict[str, int]:
        """Count the listed images that are there with their masks."""
        reader = DatasetReader(self.root)
        counts = {}
        for label, name in (("training images", self.train), ("validation images", self.test)):
            items = reader.attempt(_items, reader, name, "") or []
            counts[label] = sum(item.image.exists() and item.mask.exists() for item in items)
        return counts

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        items = {split: _items(reader, name, split) for split, name in (("train", self.train), ("test", self.test))}
        shared = sorted({item.id for item in items["train"]} & {item.id for item in items["test"]})
        if shared:
            text = f"{shared[0]} is in the list {self.train} as well"
            reader.problem(reader.root / LISTS / f"{self.test}.txt", f"{text}. Choose lists that share no image.")
        return class_tables(reader, items["train"] + items["test"], Classes(CLASSES), self.prompt, "longer")


def _items(reader: DatasetReader, name: str, split: str) -> list[MaskedImage]:
    """Return the images of a list.

    Args:
        reader: Reader of the data set.
        name: Name of the list.
        split: "train" or "test".

    Raises:
        UserError: The list is missing, is empty, or has a line that is not a name.
    """
    path = reader.locate(f"{LISTS}/{name}.txt")
    if not path.exists():
        text = f"not found; is {reader.root} the folder VOC2012? Correct `root`."
        note = f" The list trainaug and {ADDED_MASKS} are not part of the release." if name == "trainaug" else ""
        raise UserError(f"{path}: {text}{note}")
    images = dict.fromkeys(line.strip() for line in read_text(path).split("\n") if line.strip())
    if not images:
        raise UserError(f"{path}: names no images. Restore the file.")
    items = []
    for image in images:
        if len(image.split()) > 1:
            raise UserError(f"{path}: {image!r} is not the name of an image. Write one name per line.")
        masks = [reader.locate(f"{folder}/{image}.png") for folder in (MASKS, ADDED_MASKS)]
        mask = next((mask for mask in masks if mask.exists()), masks[0])
        items.append(MaskedImage(image, split, reader.locate(f"JPEGImages/{image}.jpg"), mask))
    return items
