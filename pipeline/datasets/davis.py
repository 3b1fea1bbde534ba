"""DAVIS-2017 (and the grey masks of DAVIS-2016) in the official layout, read into the catalog's tables."""

import functools
import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.catalog import Problems, inside, inspect_images
from pipeline.engine import HERE, Engine
from pipeline.errors import UserError
from pipeline.images import read_index_mask
from pipeline.masks import VOID

RESOLUTION = "480p"


def read(root: Path, year: int, split: str, prompt: str, engine: Engine = HERE) -> dict[str, list[dict[str, Any]]]:
    """Read and check one split.

    Args:
        root: the folder with `JPEGImages/480p/`, `Annotations/480p/` and `ImageSets/`.
        year: 2017, or 2016 for one object a sequence.
        split: the name of a list in `ImageSets/<year>/`, "val" for the benchmark.
        prompt: of all images.

    Returns:
        Rows of the tables images, prompts, sequences, frames and masks, sorted by sequence and frame.

    Raises:
        UserError: with a line for each problem found.
    """
    problems = Problems()
    sequences = {name: _frames(root, name, problems) for name in _sequences(root, year, split)}
    facts = inspect_images((frame for frames in sequences.values() for frame in frames), problems, engine)
    tables: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "prompts": [{"prompt": prompt}],
        "sequences": [],
        "frames": [],
        "masks": [],
    }
    for sequence, frames in sequences.items():
        sizes = {frame: (facts[frame].width, facts[frame].height) for frame in frames if frame in facts}
        if len(set(sizes.values())) > 1:
            problems.add(frames[0].parent, f"frames of different sizes: {sorted(set(sizes.values()))}")
        for index, (frame, size) in enumerate(sizes.items()):
            name = f"{sequence}/{frame.stem}"
            relative = frame.relative_to(root).as_posix()
            tables["frames"].append({"id": name, "sequence": sequence, "index": index, "name": frame.stem})
            tables["images"].append(
                {"id": name, "path": relative, **vars(facts[frame]), "category": sequence, "prompt": prompt}
            )
            mask = problems.take(functools.partial(_mask, root, year, size), _mask_path(sequence, frame.stem))
            if mask is None:
                continue
            tables["masks"].append({"id": name, **mask})
            if index == 0:
                if not mask["objects"]:
                    problems.add(mask["path"], "shows no object; the first mask is what is propagated")
                width, height = size
                objects = max(mask["objects"], default=0)
                tables["sequences"].append(
                    {
                        "sequence": sequence,
                        "frames": len(frames),
                        "objects": objects,
                        "width": width,
                        "height": height,
                    }
                )
    problems.raise_any()
    return tables


def read_mask(path: Path, year: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A mask as indices: 0 background, 1..n objects, 255 void; of DAVIS-2016, 1 wherever it is not 0."""
    mask = read_index_mask(path)
    return (mask > 0).astype(np.uint8) if year == 2016 else mask


def by_sequence(frames: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the table frames, grouped by sequence."""
    return {name: list(group) for name, group in itertools.groupby(frames, lambda row: row["sequence"])}


def _sequences(root: Path, year: int, split: str) -> list[str]:
    """The sequences of a split: a list of names, or DAVIS-2016's list of pairs of paths."""
    candidates = [root / "ImageSets" / folder / f"{split}.txt" for folder in (str(year), RESOLUTION)]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise UserError(f"{candidates[0]}: not found; is {root} the DAVIS folder (`root`)?")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable list ({error})") from None
    names = [line.split()[0] for line in lines if line.strip()]
    names = [name.rsplit("/", 2)[-2] if name.endswith(".jpg") else name for name in names]
    if not names:
        raise UserError(f"{path}: names no sequence")
    return sorted(dict.fromkeys(names))


def _frames(root: Path, sequence: str, problems: Problems) -> list[Path]:
    """The frames of a sequence that stay inside the data set, in order; what is wrong becomes problems."""
    folder = problems.take(lambda name: inside(root, f"JPEGImages/{RESOLUTION}/{name}"), sequence)
    if folder is None:
        return []
    frames = sorted(folder.glob("*.jpg"))
    numbers = [int(frame.stem) for frame in frames if frame.stem.isdecimal()]
    if not frames:
        problems.add(folder, "no frames; restore the sequence, or take it off the list of the split")
    elif len(numbers) != len(frames):
        odd = next(frame.name for frame in frames if not frame.stem.isdecimal())
        problems.add(folder, f"{odd} is not numbered; frames are 00000.jpg, 00001.jpg, ...")
    elif numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        gap = next(number for number in range(numbers[0], numbers[-1]) if number not in numbers)
        problems.add(folder, f"frame {gap:05d} is missing")
    return [f for f in frames if problems.take(lambda p: inside(root, p), f.relative_to(root).as_posix())]


def _mask_path(sequence: str, name: str) -> str:
    return f"Annotations/{RESOLUTION}/{sequence}/{name}.png"


def _mask(root: Path, year: int, size: tuple[int, int], relative: str) -> dict[str, Any]:
    """A row of the table masks, but for the id. Raises `UserError` for a mask that is missing or wrong."""
    path = inside(root, relative)
    mask = read_mask(path, year)
    if (mask.shape[1], mask.shape[0]) != size:
        raise UserError(f"{path}: {mask.shape[1]}x{mask.shape[0]}, but its frame is {size[0]}x{size[1]}")
    return {
        "path": relative,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "objects": [int(value) for value in np.unique(mask) if value not in (0, VOID)],
    }
