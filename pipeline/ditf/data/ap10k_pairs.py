"""The command `ditf prepare ap10k`: the benchmark's layout and pairs, made of the original release of AP-10K.

Protocol: GeoAware-SC (Zhang et al., arXiv 2311.17034). Its pairs depend on the order of a file system; here images are
in the order of their numbers, and what is sampled depends on the seed only.
"""

import json
import os
import shutil
from collections import defaultdict
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ditf.errors import UserError

TEST, VALIDATION = 30, 20  # images of a species: the last ones, and those before them
FEWEST = 3  # visible keypoints of an animal, and shared ones of a pair
CROSS_SPECIES, CROSS_FAMILY = 900, 30  # most pairs of a family, and of two families
MADE = ("ImageAnnotation", "JPEGImages", "PairAnnotation")
Animals = dict[tuple[str, str], list[dict[str, Any]]]  # by family and species


def prepare_ap10k(root: Path, seed: int, leave_out: Path | None) -> dict[str, int]:
    """Write `ImageAnnotation`, `JPEGImages` and `PairAnnotation` beside the release's `annotations` and `data`.

    Args:
        root: of the release.
        seed: of what is sampled, and of which image of a pair is the source.
        leave_out: a file of image numbers, one a line, such as pictures of crowds.

    Returns:
        The number of pairs of each split.

    Raises:
        UserError: the release cannot be read, or the layout is there already.
    """
    for name in MADE:
        if (root / name).exists():
            raise UserError(f"{root / name}: is there already; remove it to make the pairs anew")
    out = {int(line) for line in _lines(leave_out)} if leave_out else set()
    animals = _animals(root, out)
    for partial in root.glob(".prepare.*.partial"):  # of one that was killed
        shutil.rmtree(partial)
    work = root / f".prepare.{os.getpid()}.partial"
    try:
        for (family, species), found in tqdm(animals.items(), "species", unit="species", delay=1):
            for kind in MADE[:2]:
                (work / kind / family / species).mkdir(parents=True)
            for animal in found:
                name = Path(animal["file_name"]).stem
                text = json.dumps(animal, indent=1)
                (work / MADE[0] / family / species / f"{name}.json").write_text(text, encoding="utf-8")
                source = root / "data" / animal["file_name"]
                if not source.is_file():
                    raise UserError(f"{source}: not found; restore it from AP-10K")
                shutil.copyfile(source, work / MADE[1] / family / species / f"{name}.jpg")
        counts = _write_pairs(work / MADE[2], animals, np.random.default_rng(seed))
        for name in MADE:
            (work / name).replace(root / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _animals(root: Path, out: set[int]) -> Animals:
    """The first animal of each image that shows enough of it, by family and species, in the order of their numbers."""
    files = sorted((root / "annotations").glob("ap10k-*-split1.json"))
    if not files:
        raise UserError(f"{root / 'annotations'}: has no ap10k-*-split1.json; is {root} the release of AP-10K?")
    images: dict[int, dict[str, Any]] = {}
    first: dict[int, dict[str, Any]] = {}
    kinds: dict[int, dict[str, Any]] = {}
    for path in files:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            images |= {image["id"]: image for image in document["images"]}
            kinds |= {kind["id"]: kind for kind in document["categories"]}
            for animal in document["annotations"]:
                first.setdefault(animal["image_id"], animal)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not an annotation of AP-10K ({error})") from None
    found: Animals = defaultdict(list)
    for number, animal in sorted(first.items()):
        try:
            kind, image = kinds[animal["category_id"]], images[number]
            record = {**animal, **{key: image[key] for key in ("file_name", "width", "height")}}
            names = (str(kind["supercategory"]), str(kind["name"]))
            enough = len(_visible(record)) >= FEWEST
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{files[0].parent}: annotation of image {number}: {error} is missing") from None
        if any(Path(name).name != name or name in (".", "..") for name in (*names, record["file_name"])):
            raise UserError(f"{files[0].parent}: image {number}: {names}, {record['file_name']!r}: not names of files")
        if enough and number not in out:
            found[names].append(record | dict(zip(("supercategory", "name"), names, strict=True)))
    return dict(sorted(found.items()))


def _write_pairs(folder: Path, animals: Animals, rng: np.random.Generator) -> dict[str, int]:
    counts: dict[str, int] = {}
    parts = {names: _split(found) for names, found in animals.items()}
    families = sorted({family for family, _ in animals})
    for split in ("trn", "val", "test"):
        own = {names: part[split] for names, part in parts.items()}
        pairs = [(a, b, species) for (_, species), found in own.items() for a, b in combinations(found, 2)]
        counts[split] = _write(folder / split, [pair for pair in pairs if _share(*pair[:2])], rng)
        if split == "trn":
            continue
        across: list[tuple[dict[str, Any], dict[str, Any], str]] = []
        for family in families:
            members = [found for (own_family, _), found in own.items() if own_family == family]
            both = [(a, b, family) for x, y in combinations(members, 2) for a, b in product(x, y) if _share(a, b)]
            across += _sample(both, CROSS_SPECIES, rng)
        counts[f"{split}_cross_species"] = _write(folder / f"{split}_cross_species", across, rng)
        across = []
        whole = {
            family: [a for (own_family, _), found in own.items() if own_family == family for a in found]
            for family in families
        }
        for one, other in combinations(families, 2):
            both = [(a, b, "all") for a, b in product(whole[one], whole[other]) if _share(a, b)]
            across += _sample(both, CROSS_FAMILY, rng)
        counts[f"{split}_cross_family"] = _write(folder / f"{split}_cross_family", across, rng)
    return counts


def _split(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    rest, test = found[:-TEST], found[-TEST:]
    return {"trn": rest[:-VALIDATION], "val": rest[-VALIDATION:], "test": test}


def _visible(animal: dict[str, Any]) -> set[int]:
    values = animal["keypoints"]
    return {pairwise for pairwise in range(len(values) // 3) if values[3 * pairwise + 2] > 0}


def _share(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return len(_visible(one) & _visible(other)) >= FEWEST


def _sample(pairs: list[Any], most: int, rng: np.random.Generator) -> list[Any]:
    if len(pairs) <= most:
        return pairs
    return [pairs[n] for n in np.sort(rng.choice(len(pairs), most, replace=False))]


def _write(folder: Path, pairs: list[Any], rng: np.random.Generator) -> int:
    folder.mkdir(parents=True)
    for one, other, category in pairs:
        source, target = (one, other) if rng.integers(2) else (other, one)
        names = [Path(animal["file_name"]).stem for animal in (source, target)]
        paths = [
            f"data/ap-10k/ImageAnnotation/{a['supercategory']}/{a['name']}/{name}.json"
            for a, name in zip((source, target), names, strict=True)
        ]
        record = json.dumps(dict(zip(("src_json_path", "trg_json_path"), paths, strict=True)))
        (folder / f"{names[0]}-{names[1]}:{category}.json").write_text(record, encoding="utf-8")
    return len(pairs)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UserError(f"--leave-out: {path} cannot be read ({error})") from None
    if bad := [line for line in lines if not line.isdecimal()]:
        raise UserError(f"--leave-out: {path}: {bad[0]!r} is not the number of an image")
    return lines
