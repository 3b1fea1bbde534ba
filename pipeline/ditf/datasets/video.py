"""One video of the user's own: a folder of frames, and the mask of the first."""

import re
from pathlib import Path

import numpy as np
from pydantic import Field

from ditf.data.catalog import Problems, Row, Tables, image_row, inside, inspect_images
from ditf.data.images import Mask, read_index_mask
from ditf.data.masks import VOID, encode_mask
from ditf.datasets.base import Dataset
from ditf.datasets.folder import readable_suffixes
from ditf.errors import UserError


class Video(Dataset):
    """The images in `root`, in the order of the numbers in their names; `ditf frames` makes them of a video file.

    mask: the first frame's, in `root`: an indexed or grey PNG, 0 background; a grey one of 0 and 255 is one object.
    masks: a folder in `root` with true masks named as their frames, for J and F of those that have one; null for none.
    """

    mask: str = Field(default="mask.png", min_length=1)
    masks: str | None = None
    prompt: str = "a photo of a image"

    def read(self) -> Tables:
        root, problems = Path(self.root), Problems()
        if not root.is_dir():
            raise UserError(f"{root}: not a folder; set `root` to a folder of frames (`ditf frames` makes one)")
        first = inside(root, self.mask)
        paths = [
            p for p in root.iterdir() if p.suffix.lower() in readable_suffixes() and p.resolve() != first.resolve()
        ]
        paths = sorted((p for p in paths if not p.name.startswith(".")), key=_natural)
        if not paths:
            raise UserError(f"{root}: holds no frames")
        paths = [path for path in paths if problems.take(inside, root, path.name)]
        found = inspect_images(paths, problems)
        problems.raise_any()
        sizes = {(image.width, image.height) for image in found.values()}
        if len(sizes) > 1:
            raise UserError(f"{root}: frames of different sizes: {sorted(sizes)}")
        (size,) = sizes
        name = root.resolve().name
        objects = _read_mask(first, size)
        if not objects.any():
            raise UserError(f"{first}: shows no object, but the first mask is what is propagated")
        frames, images, masks = list[Row](), list[Row](), list[Row]()
        for index, (path, image) in enumerate(found.items()):
            id = f"{name}/{path.stem}"
            frames.append({"id": id, "sequence": name, "index": index, "name": path.stem})
            images.append(image_row(id, path.name, image, name, self.prompt))
            truth = inside(root, f"{self.masks}/{path.stem}.png") if self.masks else None
            if index == 0:
                masks.append({"id": id, "png": encode_mask(objects)})
            elif truth and truth.is_file():
                masks.append({"id": id, "png": encode_mask(_read_mask(truth, size))})
        if len({row["name"] for row in frames}) < len(frames):
            raise UserError(f"{root}: two frames have the same name but for their suffix; rename one")
        sequence = {"sequence": name, "frames": len(frames), "objects": int(objects[objects != VOID].max())}
        sequence |= {"width": size[0], "height": size[1], "context_limit": 0}
        return Tables({"images": images, "sequences": [sequence], "frames": frames, "masks": masks}, "shorter")


def _read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """A mask of (width, height) `size` as indices. Raises `UserError` for another size."""
    mask = read_index_mask(path)
    if (mask.shape[1], mask.shape[0]) != size:
        raise UserError(f"{path}: {mask.shape[1]}x{mask.shape[0]}, but the frames are {size[0]}x{size[1]}")
    if set(np.unique(mask)) <= {0, VOID}:
        return (mask > 0).astype(np.uint8)
    return mask


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts frame9 before frame10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
