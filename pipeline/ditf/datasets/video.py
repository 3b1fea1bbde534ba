"""One video of the user: a folder of frames, and a mask of the first frame."""

import os
import re
from collections import Counter
from pathlib import Path

from pydantic import Field

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.images import readable_suffixes
from ditf.data.masks import encode_mask, number_objects, object_values, read_object_mask
from ditf.data.reading import DatasetReader, normalized
from ditf.datasets.base import Dataset
from ditf.errors import UserError


class Video(Dataset):
    """The numbered frames in a folder, in the order of their numbers.

    Layout: `root` holds the frames, such as `00000.png`, and the mask of the first one. `ditf frames` makes such a
    folder from a video file. A mask is an indexed or grey PNG: 0 for background, and one value per object. A single
    object may have any value, such as 1 or 255, and its mask may be a JPEG. Beside other values, 255 is void.

    Attributes:
        mask: Mask of the first frame, a file in `root`.
        masks: Folder in `root` with true masks named like their frames. Frames that have one are scored. null for none.
        prompt: Prompt of all frames.
    """

    mask: str = Field(default="mask.png", min_length=1)
    masks: str | None = None
    prompt: str = "a photo of a image"

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        root = reader.root
        if not root.is_dir():
            raise UserError(f"{root}: not a folder. Set `root` to a folder of frames; `ditf frames` makes one.")
        mask_path = reader.locate(self.mask)
        paths = _numbered(root, reader.files(root, readable_suffixes(), used=[mask_path]))
        images = reader.images(paths)
        true_masks = reader.attempt(self._true_masks, reader, paths) or {}
        reader.raise_problems()
        sizes = sorted({image.size for image in images.values()})
        if len(sizes) > 1:
            raise UserError(f"{root}: frames of different sizes: {sizes}. Use frames of one video.")
        first_mask = read_object_mask(mask_path)
        images[paths[0]].check_size(first_mask.shape[::-1], str(mask_path), "the first frame")
        values = object_values(first_mask)
        if not values:
            raise UserError(f"{mask_path}: shows no object. Paint the objects to follow.")
        if len(values) > 1 and values != list(range(1, len(values) + 1)):
            reader.warn(
                mask_path, f"the objects {', '.join(map(str, values))} are numbered 1 to {len(values)} in results"
            )

        sequence = Path(os.path.normpath(root.absolute())).name  # links are not resolved: their name is the user's
        frames, rows, masks = list[Row](), list[Row](), list[Row]()
        for index, (path, image) in enumerate(images.items()):
            id = f"{sequence}/{path.stem}"
            frames.append({"id": id, "sequence": sequence, "index": index, "name": path.stem})
            rows.append(image_row(id, path.name, image, sequence, self.prompt))
            true_path = true_masks.get(normalized(path.stem))
            if index == 0:
                masks.append({"id": id, "png": encode_mask(number_objects(first_mask, values))})
            elif true_path and (mask := reader.attempt(read_object_mask, true_path)) is not None:
                reader.attempt(image.check_size, mask.shape[::-1], str(true_path), "its frame")
                shown = object_values(mask)
                if (unknown := set(shown) - set(values)) and not len(values) == len(shown) == 1:
                    reader.warn(true_path, f"the objects {sorted(unknown)} are not in the first mask; not scored")
                masks.append({"id": id, "png": encode_mask(number_objects(mask, values))})
        row: Row = {"sequence": sequence, "frames": len(frames), "objects": len(values)}
        row |= {"width": sizes[0][0], "height": sizes[0][1], "context_limit": 0}
        tables = {"images": rows, "sequences": [row], "frames": frames, "masks": masks}
        return Tables({**tables, "warnings": reader.finish()}, "shorter")

    def _true_masks(self, reader: DatasetReader, frames: list[Path]) -> dict[str, Path]:
        """Return the files of true masks by the normalized name of their frame."""
        if self.masks is None:
            return {}
        folder = reader.locate(self.masks)
        if not folder.is_dir():
            raise UserError(f"{folder}: not a folder. Set `masks` to a folder of masks in {reader.root}, or to null.")
        masks = {normalized(path.stem): path for path in reader.files(folder, readable_suffixes())}
        names = {normalized(frame.stem) for frame in frames}
        reader.check_names(masks, names, folder, "masks' names")
        for name, path in masks.items():
            if name not in names:
                reader.leave_out(path, "mask without a frame of its name")
        return masks


def _numbered(root: Path, paths: list[Path]) -> list[Path]:
    """Return the frames in the order of the numbers in their names.

    Raises:
        UserError: There are no frames, two have the same name, or a file is not part of the numbered sequence.
    """
    if not paths:
        raise UserError(f"{root}: holds no frames. Set `root` to a folder of frames; `ditf frames` makes one.")
    if repeated := [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]:
        raise UserError(f"{root}: two frames have the same name, {repeated[0]}, with different suffixes. Rename one.")
    patterns = Counter(re.sub(r"\d+", "#", path.stem) for path in paths)
    numbered = [(count, pattern) for pattern, count in patterns.items() if "#" in pattern]
    if numbered:
        frames = [path for path in paths if re.sub(r"\d+", "#", path.stem) == max(numbered)[1]]
        others = [path for path in paths if path not in frames]
        if others:
            raise UserError(
                f"{others[0]}: not named like the frames, such as {frames[0].name}. Move it out of the folder, or set "
                "`mask` if it is the first mask."
            )
    return sorted(paths, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts frame9 before frame10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
