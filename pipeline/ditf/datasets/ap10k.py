"""AP-10K (Yu et al., arXiv 2108.12617) as a benchmark of pairs, as in GeoAware-SC (Zhang et al., arXiv 2311.17034)."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ditf.data.catalog import Row, Tables, image_row, keypoint_row
from ditf.data.reading import DatasetReader, read_json, read_model
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

ANNOTATIONS = "ImageAnnotation"
SPECIES, TEST_IMAGES = 54, 30  # species, and images of each in the split test at most
JOINTS = [
    "left_eye",
    "right_eye",
    "nose",
    "neck",
    "root_of_tail",
    "left_shoulder",
    "left_elbow",
    "left_front_paw",
    "right_shoulder",
    "right_elbow",
    "right_front_paw",
    "left_hip",
    "left_knee",
    "left_back_paw",
    "right_hip",
    "right_knee",
    "right_back_paw",
]
# Joints that an animal has several times, and that only geometry tells apart: shoulders, knees and elbows, paws, hips.
SYMMETRIC = ((5, 8), (6, 9, 12, 15), (7, 10, 13, 16), (11, 14))
SPLIT_SUFFIXES = {"intra-species": "", "cross-species": "_cross_species", "cross-family": "_cross_family"}


class AP10K(Dataset):
    """Pairs of animals.

    Layout, as `ditf prepare ap10k` makes it from the release at https://github.com/AlexTheBad/AP-10K: images in
    `JPEGImages/<family>/<species>/`, the first animal of each image in `ImageAnnotation/<family>/<species>/`, and pairs
    in `PairAnnotation/`, in the folders `<split>`, `<split>_cross_species` and `<split>_cross_family`.

    Attributes:
        split: trn, val or test.
        pairs: Whether pairs are of one species, of two species of a family, or of two families. Split trn has only the
            first kind.
        prompt: Prompt of all images; `{category}` becomes the species.
    """

    split: Literal["trn", "val", "test"] = "test"
    pairs: Literal["intra-species", "cross-species", "cross-family"] = "intra-species"
    prompt: str = "a photo of a {category}"

    @property
    def release(self) -> Release | None:
        if self.split != "test":
            return None
        # The number of pairs depends on the order of files, so that there is none to compare with.
        return Release({}, SPECIES * TEST_IMAGES, (1024, 768), "longer", categories=SPECIES)

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        folder = reader.root / "PairAnnotation" / f"{self.split}{SPLIT_SUFFIXES[self.pairs]}"
        files = reader.files(folder, (".json",))
        if not files:
            raise UserError(
                f"{folder}: no pairs. Make them with `ditf prepare ap10k {reader.root}`, or correct `root`."
            )
        sides = {path: reader.attempt(_read_pair, reader, path) for path in files}
        pairs = {path: both for path, both in sides.items() if both}
        annotations = dict.fromkeys(path for both in pairs.values() for path in both)
        animals = {path: reader.attempt(_read_animal, path) for path in annotations}
        names = {path: path.relative_to(reader.root / ANNOTATIONS).with_suffix("").as_posix() for path in annotations}
        image_paths = {path: reader.locate(f"JPEGImages/{names[path]}.jpg") for path in annotations}
        images = reader.images(image_paths.values())
        for path, animal in animals.items():
            if animal and (image := images.get(image_paths[path])):
                reader.attempt(image.check_size, (animal.width, animal.height), f"{path}: width, height", "the image")
        rows, keypoints = list[Row](), list[Row]()
        for path, both in pairs.items():
            source, target = (animals[side] for side in both)
            if source is None or target is None:
                continue  # a problem already
            shared = [joint for joint in range(len(JOINTS)) if source.visible(joint) and target.visible(joint)]
            if not shared:
                reader.problem(
                    path, "no keypoint is visible in both images, so nothing could be scored. Remove the pair."
                )
            category = path.stem.rpartition(":")[2]
            row: Row = {"pair": path.stem, "category": category, "source": names[both[0]], "target": names[both[1]]}
            rows.append(row | {"threshold": max(target.bbox[2:])})
            keypoints += [_keypoint_row(path.stem, joint, source, target) for joint in shared]
        reader.raise_problems()
        image_rows = []
        for path in sorted(annotations):
            species = path.parent.name
            prompt = self.prompt.replace("{category}", species)
            image_path = image_paths[path]
            relative = reader.relative(image_path)
            image_rows.append(image_row(names[path], relative, images[image_path], species, prompt))
        tables = {"images": image_rows, "pairs": rows, "keypoints": keypoints, "warnings": [*reader.finish()]}
        return Tables(tables, "longer")


class Animal(BaseModel):
    """A file of `ImageAnnotation`. Fields that are not listed here are ignored."""

    model_config = ConfigDict(strict=True)

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    keypoints: Annotated[list[FiniteFloat], Field(min_length=3 * len(JOINTS), max_length=3 * len(JOINTS))]

    def visible(self, joint: int) -> bool:
        """Return whether the image shows a joint."""
        return self.keypoints[3 * joint + 2] > 0

    def point(self, joint: int) -> tuple[float, float]:
        """Return the position of a joint, (x, y) in pixels."""
        return self.keypoints[3 * joint], self.keypoints[3 * joint + 1]


def _read_pair(reader: DatasetReader, path: Path) -> tuple[Path, Path]:
    """Return the annotations of the source and the target that a file of `PairAnnotation` names."""
    try:
        record = read_json(path)
        names = [str(record[f"{side}_json_path"]) for side in ("src", "trg")]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a pair with src_json_path and trg_json_path ({error}). Restore it.") from None
    annotations = []
    for name in names:
        parts = PurePosixPath(name).parts
        if ANNOTATIONS not in parts:
            raise UserError(f"{path}: {name!r} is not in {ANNOTATIONS}. Restore the file.")
        inside = "/".join(parts[parts.index(ANNOTATIONS) + 1 :])
        annotations.append(reader.locate(inside, reader.root / ANNOTATIONS))
    return annotations[0], annotations[1]


def _read_animal(path: Path) -> Animal:
    """Read a file of `ImageAnnotation`."""
    animal = read_model(path, Animal, "Make the pairs again from AP-10K.")
    if min(animal.bbox[2:]) <= 0:
        raise UserError(f"{path}: bbox: {animal.bbox} has no area, so nothing could be scored. Restore the file.")
    return animal


def _keypoint_row(pair: str, joint: int, source: Animal, target: Animal) -> Row:
    """Return a row of the table `keypoints`."""
    group = next((group for group in SYMMETRIC if joint in group), ())
    size = (source.width, source.height)
    row = keypoint_row(pair, joint, JOINTS[joint], source.point(joint), target.point(joint), size)
    return row | {"geometry_aware": sum(target.visible(other) for other in group) >= 2}
