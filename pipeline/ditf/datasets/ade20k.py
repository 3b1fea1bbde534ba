"""ADE20K's scene-parsing benchmark (Zhou et al., arXiv 1608.05442), or any folder of images with index masks."""

from pathlib import Path

import numpy as np
from pydantic import Field

from ditf.data.catalog import Problems, Row, Tables, image_row, inside, inspect_images
from ditf.data.images import decode_mask
from ditf.datasets.base import Dataset
from ditf.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png")


class ADE20K(Dataset):
    """Images to learn from and images to score, each with a mask of class indices.

    Layout: `<images>/<part>/*.jpg` and `<masks>/<part>/*.png` of the same names, in `root`. train, test: the parts.
    classes: how many there are. first: the index of the first class in the masks; what is not a class is ignored: in
    ADE20K 0, before the classes 1..150.
    """

    images: str = "images"
    masks: str = "annotations"
    train: str = "training"
    test: str = "validation"
    classes: int = Field(default=150, ge=2, le=254)
    first: int = Field(default=1, ge=0, le=255)
    prompt: str = ""

    def read(self) -> Tables:
        root, problems = Path(self.root), Problems()
        files: dict[str, tuple[str, Path]] = {}
        for part, name in (("train", self.train), ("test", self.test)):
            folder = inside(root, f"{self.images}/{name}")
            found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
            if not found:
                raise UserError(f"{folder}: has no images; is {root} the data set's folder (`root`)?")
            files |= {f"{name}/{path.stem}": (part, path) for path in found}
        images = inspect_images([path for _, path in files.values()], problems)
        rows, masks = [], []
        for item, (part, path) in files.items():
            problems.take(inside, root, path.relative_to(root).as_posix())
            if path not in images:
                continue
            mask = root / self.masks / Path(item).parent / f"{path.stem}.png"
            png = problems.take(self._mask, (images[path].width, images[path].height), mask)
            rows.append(image_row(item, path.relative_to(root).as_posix(), images[path], part, self.prompt))
            masks += [{"id": item, "png": png}] if png else []
        problems.raise_any()
        classes = [{"index": n + self.first, "name": str(n + self.first)} for n in range(self.classes)]
        tables: dict[str, list[Row]] = {"images": rows, "masks": masks, "classes": classes}
        return Tables(tables | {"warnings": problems.warnings}, "square")

    def _mask(self, size: tuple[int, int], path: Path) -> bytes:
        """The bytes of a mask of an image of (width, height)."""
        try:
            data = path.read_bytes()
        except OSError:
            raise UserError(f"{path}: not found; each image needs its mask") from None
        mask = decode_mask(data, path)
        if mask.shape != size[::-1]:
            raise UserError(f"{path}: {mask.shape[1]}x{mask.shape[0]}, but its image is {size[0]}x{size[1]}")
        if not ((mask >= self.first) & (mask < self.first + self.classes)).any():
            raise UserError(f"{path}: shows none of the classes {self.first}..{self.first + self.classes - 1}")
        last = int(np.max(mask, initial=0))
        if self.first + self.classes <= last < 255:
            raise UserError(f"{path}: has the index {last}, but the classes end at {self.first + self.classes - 1}")
        return data
