"""ADE20K's scene-parsing benchmark (Zhou et al., arXiv 1608.05442), or any images with index masks."""

from pathlib import Path

import numpy as np
from pydantic import Field

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.images import ImageFile, read_bytes
from ditf.data.masks import decode_mask
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
        counts = {"training images": TRAINING_IMAGES, "validation images": VALIDATION_IMAGES}
        images = TRAINING_IMAGES + VALIDATION_IMAGES
        return Release(counts, images, (683, 512), "square", categories=2, images_per_unit=1)

    def counts(self) -> dict[str, int]:
        folders = {"training images": self.train, "validation images": self.test}
        return {
            label: sum(path.suffix.lower() in SUFFIXES for path in Path(self.root, self.images, name).glob("*"))
            for label, name in folders.items()
        }

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        files: dict[str, tuple[str, Path]] = {}
        mask_files: dict[str, Path] = {}
        for split, name in (("train", self.train), ("test", self.test)):
            folder = reader.locate(f"{self.images}/{name}")
            paths = reader.files(folder, SUFFIXES)
            if not paths:
                raise UserError(f"{folder}: has no images; is {reader.root} the data set's folder? Correct `root`.")
            files |= {f"{name}/{path.stem}": (split, path) for path in paths}
            folder = reader.locate(f"{self.masks}/{name}")
            masks_of_split = {normalized(path.stem): path for path in reader.files(folder, (".png",))}
            names = {normalized(path.stem) for path in paths}
            reader.check_names(masks_of_split, names, folder, "masks' names")
            for stem, path in masks_of_split.items():
                if stem not in names:
                    reader.leave_out(path, "mask without an image of its name")
            mask_files |= {f"{name}/{stem}": path for stem, path in masks_of_split.items()}
        images = reader.images(path for _, path in files.values())
        rows, masks = list[Row](), list[Row]()
        empty: dict[str, list[Path]] = {"train": [], "test": []}
        for id, (split, path) in files.items():
            if path not in images:
                continue  # a problem already
            mask_path = mask_files.get(f"{Path(id).parent.as_posix()}/{normalized(path.stem)}")
            if mask_path is None:
                missing = reader.root / self.masks / f"{id}.png"
                reader.problem(missing, "not found. Restore it; each image needs a mask.")
                continue
            labeled = reader.attempt(self._check_mask, mask_path, images[path])
            if labeled is None:
                continue
            if not labeled:
                empty[split].append(mask_path)
            rows.append(image_row(id, reader.relative(path), images[path], split, self.prompt))
            masks.append({"id": id, "png": read_bytes(mask_path)})
        reader.raise_problems()
        last = self.first + self.classes - 1
        for split, paths in empty.items():
            count = sum(row["category"] == split for row in rows)
            if len(paths) == count:
                raise UserError(
                    f"{paths[0]}: like all masks of its part, shows none of the classes {self.first}..{last}."
                )
            if paths:
                text = f"{len(paths)} of {count} masks show no class; their pixels are ignored"
                reader.warn(paths[0].parent, f"{text} (such as {paths[0].name})")
        classes = [{"index": n + self.first, "name": str(n + self.first)} for n in range(self.classes)]
        tables: dict[str, list[Row]] = {"images": rows, "masks": masks, "classes": classes}
        return Tables({**tables, "warnings": [*reader.finish()]}, "square")

    def _check_mask(self, path: Path, image: ImageFile) -> bool:
        """Return whether a mask shows any of the classes. Raises `UserError` if it does not fit image or classes."""
        mask = decode_mask(read_bytes(path), path)
        image.check_size(mask.shape[::-1], str(path))
        end = self.first + self.classes
        unknown = mask[(mask >= end) & (mask < 255)]
        if unknown.size:
            raise UserError(f"{path}: has the index {unknown.max()}, but the classes end at {end - 1}. Set `classes`.")
        return bool(np.any((mask >= self.first) & (mask < end)))
