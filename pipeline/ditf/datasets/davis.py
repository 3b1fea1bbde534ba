"""DAVIS-2017 (and the grey masks of DAVIS-2016) in the official layout."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ditf.data.catalog import Problems, Row, Tables, image_row, inside, inspect_images
from ditf.data.images import Mask, read_index_mask
from ditf.data.masks import VOID, encode_mask
from ditf.datasets.base import Dataset
from ditf.errors import UserError

RESOLUTION = "480p"
GREY = 255  # the value of the object in DAVIS-2016's masks
CONTEXT_LIMITS = {"shooting": 10}  # the released protocol gives this sequence, whose camera cuts, less context


class Davis(Dataset):
    """One split of DAVIS. year: 2017, or 2016 for grey masks of one object. split: the name of a list in
    `ImageSets/<year>/`. prompt: of all images; the default is the published one, as it is spelt there.
    """

    year: Literal[2016, 2017] = 2017
    split: str = Field(default="val", pattern=r"^[\w-]+$")
    prompt: str = "a photo of a image"

    @property
    def is_test(self) -> bool:
        return self.split == "val"

    def read(self) -> Tables:
        root, problems = Path(self.root), Problems()
        sequences = {name: _frames(root, name, problems) for name in self._sequences(root)}
        found = inspect_images((frame for frames in sequences.values() for frame in frames), problems)
        tables: dict[str, list[Row]] = {"images": [], "sequences": [], "frames": [], "masks": []}
        for sequence, frames in sequences.items():
            sizes = {frame: (found[frame].width, found[frame].height) for frame in frames if frame in found}
            if len(set(sizes.values())) > 1:
                problems.add(frames[0].parent, f"frames of different sizes: {sorted(set(sizes.values()))}")
            for index, (frame, size) in enumerate(sizes.items()):
                name = f"{sequence}/{frame.stem}"
                relative = frame.relative_to(root).as_posix()
                tables["frames"].append({"id": name, "sequence": sequence, "index": index, "name": frame.stem})
                tables["images"].append(image_row(name, relative, found[frame], sequence, self.prompt))
                path = root / "Annotations" / RESOLUTION / sequence / f"{frame.stem}.png"
                mask = problems.take(self._mask, root, size, path)
                if mask is None:
                    continue
                tables["masks"].append({"id": name, "png": encode_mask(mask)})
                if index == 0:
                    objects = int(mask[mask != VOID].max(initial=0))
                    if not objects:
                        remedy = "; of DAVIS-2016, set `year: 2016`" if (mask == GREY).any() else ""
                        problems.add(path, f"shows no object, but the first mask is what is propagated{remedy}")
                    row = {"sequence": sequence, "frames": len(frames), "objects": objects}
                    row |= {"width": size[0], "height": size[1], "context_limit": CONTEXT_LIMITS.get(sequence, 0)}
                    tables["sequences"].append(row)
        problems.raise_any()
        return Tables(tables, "shorter")

    def _mask(self, root: Path, size: tuple[int, int], path: Path) -> Mask:
        """The true mask of a frame. Raises `UserError` for one that is missing or wrong."""
        mask = read_index_mask(inside(root, path.relative_to(root).as_posix()))
        if (mask.shape[1], mask.shape[0]) != size:
            raise UserError(f"{path}: {mask.shape[1]}x{mask.shape[0]}, but its frame is {size[0]}x{size[1]}")
        return (mask > 0).astype(np.uint8) if self.year == 2016 else mask

    def _sequences(self, root: Path) -> list[str]:
        """The sequences of the split: a list of names, or DAVIS-2016's list of pairs of paths."""
        candidates = [root / "ImageSets" / folder / f"{self.split}.txt" for folder in (str(self.year), RESOLUTION)]
        path = next((p for p in candidates if p.is_file()), None)
        if path is None:
            raise UserError(f"{candidates[0]}: not found; is {root} the DAVIS folder (`root`)?")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
        except (UnicodeDecodeError, OSError) as error:
            raise UserError(f"{path}: not a readable list ({error})") from None
        names = [line.split(".jpg ")[0].rsplit("/", 2)[-2] if ".jpg " in line else line for line in lines if line]
        if not names:
            raise UserError(f"{path}: names no sequence")
        return sorted(dict.fromkeys(names))


def _frames(root: Path, sequence: str, problems: Problems) -> list[Path]:
    """The frames of a sequence that stay inside the data set, by their numbers; what is wrong becomes problems."""
    folder = problems.take(inside, root, f"JPEGImages/{RESOLUTION}/{sequence}")
    if folder is None:
        return []
    frames = sorted(folder.glob("*.jpg"))
    odd = [frame.name for frame in frames if not frame.stem.isdecimal()]
    if not frames:
        problems.add(folder, "no frames; restore the sequence, or take it off the list of the split")
    elif odd:
        problems.add(folder, f"{odd[0]} is not numbered; frames are 00000.jpg, 00001.jpg, ...")
    else:
        frames.sort(key=lambda frame: int(frame.stem))
        numbers = [int(frame.stem) for frame in frames]
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
        if missing:
            problems.add(folder, f"frame {missing[0]:05d} is missing")
    return [f for f in frames if problems.take(inside, root, f.relative_to(root).as_posix())]
