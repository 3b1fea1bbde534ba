"""ADE20K's scene-parsing benchmark (Zhou et al., arXiv 1608.05442), or any images with index masks."""

from pathlib import Path

from pydantic import Field

from ditf.data.catalog import Tables
from ditf.data.class_masks import Classes, MaskedImage, class_tables
from ditf.data.reading import DatasetReader, normalized
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png")
BENCHMARK_CLASSES = 150
TRAINING_IMAGES, VALIDATION_IMAGES = 20_210, 2_000  # of the benchmark


class ADE20K(Dataset):
    """Images to train a probe on and images to score, each with a mask of class indices.

    Layout, as in the release ADEChallengeData2016: `images/<part>/<name>.jpg` and `annotations/<part>/<name>.png`. The
    parts are `training` and `validation`. Masks hold 0 where nothing is labeled, and classes from 1 to 150.

    Attributes:
        images: Folder of the images in `root`.
        masks: Folder of the masks in `root`.
        train: Subfolder of the images to train on.
        test: Subfolder of the images to score.
        classes: Number of classes.
        first: Mask index of the first class. Other indices outside the classes are ignored if they are smaller, or 255.
        prompt: Prompt of all images.
    """

    images: str = "images"
    masks: str = "annotations"
    train: str = "training"
    test: str = "validation"
    classes: int = Field(default=BENCHMARK_CLASSES, ge=2, le=254)
    first: int = Field(default=1, ge=0, le=255)
    prompt: str = ""

    @property
    def release(self) -> Release | None:
        if self.classes != BENCHMARK_CLASSES:
            return None
        sizes = TRAINING_IMAGES, VALIDATION_IMAGES
        return Release.for_probe(*sizes, (683, 512), "square", "ADE20K val", BENCHMARK_CLASSES)

    def counts(self) -> dict[str, int]:
        folders = {"training images": self.train, "validation images": self.test}
        return {
            label: sum(path.suffix.lower() in SUFFIXES for path in Path(self.root, self.images, name).glob("*"))
            for label, name in folders.items()
        }

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        items = list[MaskedImage]()
        for split, name in (("train", self.train), ("test", self.test)):
            folder = reader.locate(f"{self.images}/{name}")
            paths = {normalized(path.stem): path for path in reader.files(folder, SUFFIXES)}
            if not paths:
                raise UserError(f"{folder}: has no images; is {reader.root} the data set's folder? Correct `root`.")
            folder = reader.locate(f"{self.masks}/{name}")
            masks = {normalized(path.stem): path for path in reader.files(folder, (".png",))}
            reader.check_names(masks, paths, folder, "masks' names")
            for stem, path in masks.items():
                if stem not in paths:
                    reader.leave_out(path, "mask without an image of its name")
            for stem, path in paths.items():
                mask = masks.get(stem, folder / f"{path.stem}.png")
                items.append(MaskedImage(f"{name}/{path.stem}", split, path, mask))
        names = [str(index) for index in range(self.first, self.first + self.classes)]
        return class_tables(reader, items, Classes(names, self.first, "Set `classes`."), self.prompt, "square")
