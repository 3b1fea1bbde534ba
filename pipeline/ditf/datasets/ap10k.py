"""AP-10K (Yu et al., arXiv 2108.12617) as a benchmark of pairs: the layout of GeoAware-SC (arXiv 2311.17034)."""

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ditf.data.catalog import Problems, Row, Tables, image_row, inside, inspect_images, keypoint_row
from ditf.datasets.base import Dataset
from ditf.errors import UserError

ANNOTATIONS = "ImageAnnotation"
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
# Parts that an animal has several times, and that only geometry tells apart: shoulders, knees and elbows, paws, hips.
ALIKE = ((5, 8), (6, 9, 12, 15), (7, 10, 13, 16), (11, 14))
KINDS = {"intra-species": "", "cross-species": "_cross_species", "cross-family": "_cross_family"}


class AP10K(Dataset):
    """Pairs of animals; `ditf prepare ap10k` makes this layout of the original release.

    split: trn, val or test. pairs: of one species, of two species of a family, or of two families; the last two have no
    split trn. prompt: `{category}` is the species.
    """

    split: Literal["trn", "val", "test"] = "test"
    pairs: Literal["intra-species", "cross-species", "cross-family"] = "intra-species"
    prompt: str = "a photo of a {category}"

    def read(self) -> Tables:
        root = Path(self.root)
        folder = root / "PairAnnotation" / f"{self.split}{KINDS[self.pairs]}"
        files = sorted(folder.glob("*.json"))
        if not files:
            raise UserError(f"{folder}: no pairs; make them with `ditf prepare ap10k {root}`, or correct `root`")
        problems = Problems()
        named = {path: problems.take(_read_pair, root, path) for path in files}
        pairs = {path: sides for path, sides in named.items() if sides}
        wanted = dict.fromkeys(path for sides in pairs.values() for path in sides)
        animals = {path: problems.take(_read_animal, root, path) for path in wanted}
        pictures = {path: _picture(root, path) for path in wanted}
        images = inspect_images(pictures.values(), problems)
        for path, animal in animals.items():
            found = images.get(pictures[path])
            if animal and found and (found.width, found.height) != (animal.width, animal.height):
                size = f"{animal.width}x{animal.height}"
                problems.add(path, f"width, height: {size}, but the image is {found.width}x{found.height}")
        rows, keypoints = [], []
        for path, sides in pairs.items():
            source, target = (animals[side] for side in sides)
            if source is None or target is None:
                continue  # reported above
            shared = [k for k in range(len(JOINTS)) if source.visible(k) and target.visible(k)]
            if not shared:
                problems.add(path, "no keypoint is visible in both images, so nothing could be scored")
            names = [_name(root, side) for side in sides]
            category = path.stem.rpartition(":")[2]
            row = {"pair": path.stem, "category": category, "source": names[0], "target": names[1]}
            rows.append(row | {"threshold": max(target.bbox[2:])})
            keypoints += [_keypoint(path.stem, pairwise, source, target) for pairwise in shared]
        problems.raise_any()
        shown = []
        for path in sorted(wanted):
            species = path.parent.name
            relative = pictures[path].relative_to(root).as_posix()
            prompt = self.prompt.replace("{category}", species)
            shown.append(image_row(_name(root, path), relative, images[pictures[path]], species, prompt))
        tables = {"images": shown, "pairs": rows, "keypoints": keypoints, "warnings": problems.warnings}
        return Tables(tables, "longer")


class Animal(BaseModel):
    """A file of `ImageAnnotation`; fields that are not listed are ignored."""

    model_config = ConfigDict(strict=True)

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    keypoints: Annotated[list[FiniteFloat], Field(min_length=3 * len(JOINTS), max_length=3 * len(JOINTS))]

    def visible(self, pairwise: int) -> bool:
        """Whether the image shows a pairwise."""
        return self.keypoints[3 * pairwise + 2] > 0

    def point(self, pairwise: int) -> tuple[float, float]:
        """Where a pairwise is, (x, y) in pixels."""
        return self.keypoints[3 * pairwise], self.keypoints[3 * pairwise + 1]


def _read_pair(root: Path, path: Path) -> tuple[Path, Path]:
    """The annotations of the source and the target that a pair names."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = [str(record[f"{side}_json_path"]) for side in ("src", "trg")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a pair with src_json_path and trg_json_path ({error})") from None
    found = []
    for name in names:
        parts = PurePosixPath(name).parts
        if ANNOTATIONS not in parts:
            raise UserError(f"{path}: {name!r} is not in {ANNOTATIONS}")
        found.append(inside(root, "/".join(parts[parts.index(ANNOTATIONS) :])))
    return found[0], found[1]


def _read_animal(root: Path, path: Path) -> Animal:
    try:
        animal = Animal.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {field}: {first['msg']}; make the layout anew from AP-10K") from None
    if min(animal.bbox[2:]) <= 0:
        raise UserError(f"{path}: bbox: {animal.bbox} has no area, so nothing could be scored")
    return animal


def _picture(root: Path, annotation: Path) -> Path:
    relative = annotation.resolve().relative_to((root / ANNOTATIONS).resolve()).with_suffix(".jpg")
    return inside(root, f"JPEGImages/{relative.as_posix()}")


def _name(root: Path, annotation: Path) -> str:
    """The id of an image, such as "Felidae/cat/000000000121"."""
    return annotation.resolve().relative_to((root / ANNOTATIONS).resolve()).with_suffix("").as_posix()


def _keypoint(pair: str, pairwise: int, source: Animal, target: Animal) -> Row:
    alike = next((group for group in ALIKE if pairwise in group), ())
    size = (source.width, source.height)
    row = keypoint_row(pair, pairwise, JOINTS[pairwise], source.point(pairwise), target.point(pairwise), size)
    return row | {"geometry_aware": sum(target.visible(other) for other in alike) >= 2}
