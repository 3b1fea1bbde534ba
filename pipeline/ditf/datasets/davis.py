"""DAVIS-2017 (Pont-Tuset et al., arXiv 1704.00675) and DAVIS-2016 (Perazzi et al., CVPR 2016)."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.images import ImageFile
from ditf.data.masks import VOID, Mask, encode_mask, read_index_mask
from ditf.data.reading import DatasetReader, normalized, read_text
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

RESOLUTION = "480p"
VAL_SEQUENCES, VAL_FRAMES = 30, 1_999  # of DAVIS-2017
VAL_NAMES = frozenset(
    """
    bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog dogs-jump
    drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf lab-coat libby loading mbike-trick
    motocross-jump paragliding-launch parkour pigs scooter-black shooting soapbox
    """.split()  # noqa: SIM905
)
LONGEST = 104  # frames of the longest sequence
GREY = 255  # value of the object in the masks of DAVIS-2016
CONTEXT_LIMITS = {"shooting": 10}  # the released protocol gives this sequence, whose camera cuts, less context


class Davis(Dataset):
    """One split of DAVIS.

    Layout, as released at https://davischallenge.org: `JPEGImages/480p/<sequence>/00000.jpg`, masks in
    `Annotations/480p/<sequence>/00000.png`, and the names of a split's sequences in `ImageSets/<year>/<split>.txt`. A
    sequence without masks besides the first one, as in the split test-dev, is propagated and not scored.

    Attributes:
        year: 2017, or 2016 for grey masks of one object.
        split: Name of a list in `ImageSets/<year>/`.
        prompt: Prompt of all images. The default is the published one, spelled as there.
    """

    year: Literal[2016, 2017] = 2017
    split: str = Field(default="val", pattern=r"^[\w-]+$")
    prompt: str = "a photo of a image"

    @property
    def is_test(self) -> bool:
        return self.split == "val" or self.split.startswith("test")

    @property
    def release(self) -> Release | None:
        if (self.year, self.split) != (2017, "val"):
            return None
        counts = {"sequences": VAL_SEQUENCES, "frames": VAL_FRAMES}
        return Release(
            counts,
            VAL_FRAMES,
            (854, 480),
            "shorter",
            images_per_unit=LONGEST,
            title="DAVIS-2017 val",
            rows=counts,
            names=VAL_NAMES,
        )

    def counts(self) -> dict[str, int]:
        try:
            sequences = self._sequences(DatasetReader(self.root))
        except UserError:
            sequences = []
        folders = [Path(self.root, "JPEGImages", RESOLUTION, name) for name in sequences]
        frames = [sum(1 for _ in folder.glob("*.[jJ][pP]*[gG]")) for folder in folders]
        return {"sequences": sum(map(bool, frames)), "frames": sum(frames)}

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        sequences = {name: reader.attempt(_frames, reader, name) or [] for name in self._sequences(reader)}
        images = reader.images(frame for frames in sequences.values() for frame in frames)
        tables: dict[str, list[Row]] = {"images": [], "sequences": [], "frames": [], "masks": []}
        for sequence, frames in sequences.items():
            sizes = sorted({images[frame].size for frame in frames if frame in images})
            if len(sizes) > 1:
                reader.problem(frames[0].parent, f"frames of different sizes: {sizes}. Restore the sequence.")
            masks = self._masks(reader, sequence, frames)
            for index, frame in enumerate(frames):
                if frame not in images:
                    continue  # a problem already
                name = f"{sequence}/{frame.stem}"
                tables["frames"].append({"id": name, "sequence": sequence, "index": index, "name": frame.stem})
                relative = reader.relative(frame)
                tables["images"].append(image_row(name, relative, images[frame], sequence, self.prompt))
                if frame not in masks:
                    continue
                mask = reader.attempt(self._mask, masks[frame], images[frame])
                if mask is None:
                    continue
                tables["masks"].append({"id": name, "png": encode_mask(mask)})
                if index == 0:
                    objects = int(mask[mask != VOID].max(initial=0))
                    if not objects:
                        remedy = "For DAVIS-2016, set `year: 2016`." if (mask == GREY).any() else "Restore it."
                        reader.problem(masks[frame], f"shows no object, and nothing could be propagated. {remedy}")
                    row: Row = {"sequence": sequence, "frames": len(frames), "objects": objects}
                    row |= {"width": mask.shape[1], "height": mask.shape[0]}
                    tables["sequences"].append(row | {"context_limit": CONTEXT_LIMITS.get(sequence, 0)})
        tables["warnings"] = [*reader.finish()]
        return Tables(tables, "shorter")

    def _sequences(self, reader: DatasetReader) -> list[str]:
        """Return the sequences of the split, from a list of names or from DAVIS-2016's list of pairs of paths."""
        candidates = [
            reader.root / "ImageSets" / folder / f"{self.split}.txt" for folder in (str(self.year), RESOLUTION)
        ]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise UserError(
                f"{candidates[0]}: not found; is {reader.root} the DAVIS folder? Correct `root` or `split`."
            )
        lines = [line.strip() for line in read_text(path).split("\n")]
        names = [
            line.replace(".JPG ", ".jpg ").split(".jpg ")[0].rsplit("/", 2)[-2] if ".jpg " in line.lower() else line
            for line in lines
            if line
        ]
        if not names:
            raise UserError(f"{path}: names no sequence. Restore the list.")
        return sorted(dict.fromkeys(names))

    def _masks(self, reader: DatasetReader, sequence: str, frames: list[Path]) -> dict[Path, Path]:
        """Return the file of each frame's mask. All frames need one, or only the first."""
        if not frames:
            return {}
        folder = reader.locate(f"Annotations/{RESOLUTION}/{sequence}")
        files = {normalized(path.stem): path for path in reader.files(folder, (".png",))}
        masks = {frame: files[normalized(frame.stem)] for frame in frames if normalized(frame.stem) in files}
        if list(masks) == frames[:1] and len(frames) > 1:
            reader.warn(folder, "only the first frame has a mask; the sequence is propagated and not scored")
            return masks
        for frame in frames:
            if frame not in masks:
                reader.problem(folder / f"{frame.stem}.png", "not found. Restore it from DAVIS.")
        return masks

    def _mask(self, path: Path, image: ImageFile) -> Mask:
        """Return the true mask of a frame."""
        mask = read_index_mask(path)
        image.check_size(mask.shape[::-1], str(path), "its frame")
        return (mask > 0).astype(np.uint8) if self.year == 2016 else mask


def _frames(reader: DatasetReader, sequence: str) -> list[Path]:
    """Return the frames of a sequence by number. Raises `UserError` if they are not numbered without gaps."""
    folder = reader.locate(f"JPEGImages/{RESOLUTION}/{sequence}")
    frames = reader.files(folder, (".jpg", ".jpeg"))
    if not frames:
        raise UserError(f"{folder}: no frames. Restore the sequence, or remove it from the list of the split.")
    if odd := [frame.name for frame in frames if not frame.stem.isdecimal()]:
        raise UserError(f"{folder}: {odd[0]} is not numbered; frames are 00000.jpg, 00001.jpg, ... Move it elsewhere.")
    frames.sort(key=lambda frame: int(frame.stem))
    numbers = [int(frame.stem) for frame in frames]
    if repeated := [number for number, following in pairwise(numbers) if number == following]:
        raise UserError(f"{folder}: two frames have the number {repeated[0]}. Remove one.")
    if missing := sorted(set(range(numbers[0], numbers[-1])) - set(numbers)):
        raise UserError(f"{folder}: frame {missing[0]:05d} is missing. Restore it from DAVIS.")
    return frames
