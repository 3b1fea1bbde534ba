"""Make the pairs of the AP-10K benchmark from the data set's original release, for `ditf prepare ap10k`.

Protocol: GeoAware-SC (Zhang et al., arXiv 2311.17034). Its pairs depend on the order of files on disk. Here images are
ordered by their numbers, and the sampled pairs depend on the seed only.
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

from ditf.data.reading import read_json, read_text
from ditf.errors import UserError

TEST, VALIDATION = 30, 20  # images of each species: the last 30 are for tests, the 20 before them for validation
MIN_KEYPOINTS = 3  # visible keypoints that an animal needs, and shared ones that a pair needs
MAX_CROSS_SPECIES, MAX_CROSS_FAMILY = 900, 30  # pairs of a family, and pairs of two families
OUTPUT_FOLDERS = ("ImageAnnotation", "JPEGImages", "PairAnnotation")

Animal = dict[str, Any]
Pair = tuple[Animal, Animal, str]  # both animals, and the category of the pair
AnimalsBySpecies = dict[tuple[str, str], list[Animal]]  # keys are (family, species)


def prepare_ap10k(root: Path, seed: int, leave_out: Path | None) -> dict[str, int]:
    """Write `ImageAnnotation`, `JPEGImages` and `PairAnnotation` beside the release's `annotations` and `data`.

    Args:
        root: Folder of the release.
        seed: Seed of the sampled pairs, and of which image of a pair is the source.
        leave_out: File of image numbers to leave out, one per line, such as pictures of crowds.

    Returns:
        The number of pairs of each split.

    Raises:
        UserError: The release cannot be read, or the layout exists already.
    """
    for name in OUTPUT_FOLDERS:
        if (root / name).exists():
            raise UserError(f"{root / name}: exists already. Remove it to make the pairs again.")
    excluded = _read_numbers(leave_out) if leave_out else set()
    animals = _read_animals(root, excluded)
    for partial in root.glob(".prepare.*.partial"):  # left by a run that was killed
        shutil.rmtree(partial)
    work = root / f".prepare.{os.getpid()}.partial"
    try:
        for (family, species), members in tqdm(animals.items(), "species", unit="species", delay=1):
            for name in OUTPUT_FOLDERS[:2]:
                (work / name / family / species).mkdir(parents=True)
            for animal in members:
                stem, source = Path(animal["file_name"]).stem, root / "data" / animal["file_name"]
                annotation = work / OUTPUT_FOLDERS[0] / family / species / f"{stem}.json"
                annotation.write_text(json.dumps(animal, indent=1), encoding="utf-8")
                if not source.is_file():
                    raise UserError(f"{source}: not found. Restore it from AP-10K.")
                shutil.copyfile(source, work / OUTPUT_FOLDERS[1] / family / species / f"{stem}.jpg")
        counts = _write_pairs(work / OUTPUT_FOLDERS[2], animals, np.random.default_rng(seed))
        for name in OUTPUT_FOLDERS:
            (work / name).replace(root / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _read_animals(root: Path, excluded: set[int]) -> AnimalsBySpecies:
    """Return the first animal of each image that shows enough keypoints, ordered by image number."""
    files = sorted((root / "annotations").glob("ap10k-*-split1.json"))
    if not files:
        raise UserError(f"{root / 'annotations'}: has no ap10k-*-split1.json. Give the folder of AP-10K's release.")
    images: dict[int, dict[str, Any]] = {}
    annotations: dict[int, Animal] = {}
    categories: dict[int, dict[str, Any]] = {}
    for path in files:
        document = read_json(path)
        try:
            images |= {image["id"]: image for image in document["images"]}
            categories |= {category["id"]: category for category in document["categories"]}
            for annotation in document["annotations"]:
                annotations.setdefault(annotation["image_id"], annotation)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not an annotation file of AP-10K ({error}). Restore it from AP-10K.") from None
    animals: AnimalsBySpecies = defaultdict(list)
    for number, annotation in sorted(annotations.items()):
        where = f"{files[0].parent}: image {number}"
        try:
            category, image = categories[annotation["category_id"]], images[number]
            animal = {**annotation, **{key: image[key] for key in ("file_name", "width", "height")}}
            family, species = str(category["supercategory"]), str(category["name"])
            enough = len(_visible(animal)) >= MIN_KEYPOINTS
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{where}: its annotation lacks {error}. Restore the file from AP-10K.") from None
        for name in (family, species, animal["file_name"]):
            if Path(name).name != name or name in (".", ".."):
                raise UserError(f"{where}: {name!r} is not a file name. Restore the file from AP-10K.")
        if enough and number not in excluded:
            animals[family, species].append(animal | {"supercategory": family, "name": species})
    return dict(sorted(animals.items()))


def _write_pairs(folder: Path, animals: AnimalsBySpecies, rng: np.random.Generator) -> dict[str, int]:
    """Write the pairs of all splits; return how many each has."""
    counts: dict[str, int] = {}
    families = sorted({family for family, _ in animals})
    for split in ("trn", "val", "test"):
        members = {names: _split(each)[split] for names, each in animals.items()}
        pairs = [(a, b, species) for (_, species), each in members.items() for a, b in combinations(each, 2)]
        counts[split] = _write(folder / split, [pair for pair in pairs if _shares_keypoints(pair)], rng)
        if split == "trn":
            continue
        pairs = []
        for family in families:
            by_species = [each for (name, _), each in members.items() if name == family]
            candidates = [(a, b, family) for x, y in combinations(by_species, 2) for a, b in product(x, y)]
            pairs += _sample([pair for pair in candidates if _shares_keypoints(pair)], MAX_CROSS_SPECIES, rng)
        counts[f"{split}_cross_species"] = _write(folder / f"{split}_cross_species", pairs, rng)
        pairs = []
        by_family = {
            family: [animal for (name, _), each in members.items() if name == family for animal in each]
            for family in families
        }
        for one, other in combinations(families, 2):
            candidates = [(a, b, "all") for a, b in product(by_family[one], by_family[other])]
            pairs += _sample([pair for pair in candidates if _shares_keypoints(pair)], MAX_CROSS_FAMILY, rng)
        counts[f"{split}_cross_family"] = _write(folder / f"{split}_cross_family", pairs, rng)
    return counts


def _split(animals: list[Animal]) -> dict[str, list[Animal]]:
    """Return the animals of one species by split."""
    others, test = animals[:-TEST], animals[-TEST:]
    return {"trn": others[:-VALIDATION], "val": others[-VALIDATION:], "test": test}


def _visible(animal: Animal) -> set[int]:
    """Return the numbers of the visible keypoints."""
    values = animal["keypoints"]
    return {number for number in range(len(values) // 3) if values[3 * number + 2] > 0}


def _shares_keypoints(pair: Pair) -> bool:
    """Return whether both animals show enough of the same keypoints."""
    return len(_visible(pair[0]) & _visible(pair[1])) >= MIN_KEYPOINTS


def _sample(pairs: list[Pair], most: int, rng: np.random.Generator) -> list[Pair]:
    """Return at most `most` of the pairs, in their order."""
    if len(pairs) <= most:
        return pairs
    return [pairs[index] for index in np.sort(rng.choice(len(pairs), most, replace=False))]


def _write(folder: Path, pairs: list[Pair], rng: np.random.Generator) -> int:
    """Write one file per pair; return how many there are."""
    folder.mkdir(parents=True)
    for one, other, category in pairs:
        source, target = (one, other) if rng.integers(2) else (other, one)
        stems = [Path(animal["file_name"]).stem for animal in (source, target)]
        paths = [
            f"data/ap-10k/ImageAnnotation/{animal['supercategory']}/{animal['name']}/{stem}.json"
            for animal, stem in zip((source, target), stems, strict=True)
        ]
        record = {"src_json_path": paths[0], "trg_json_path": paths[1]}
        (folder / f"{stems[0]}-{stems[1]}:{category}.json").write_text(json.dumps(record), encoding="utf-8")
    return len(pairs)


def _read_numbers(path: Path) -> set[int]:
    """Return the image numbers of the file of `--leave-out`."""
    words = read_text(path).split()
    for word in words:
        if not word.isdecimal():
            raise UserError(f"--leave-out: {path}: {word!r} is not the number of an image. Write one number per line.")
    return {int(word) for word in words}
