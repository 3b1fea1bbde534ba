"""SPair-71k (Min et al., arXiv 1908.10543) in its official layout."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ditf.data.catalog import Problems, Row, Tables, image_row, inside, inspect_images, keypoint_row
from ditf.datasets.base import Dataset
from ditf.errors import UserError

Pixel = tuple[int, int]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
Size = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=3)]
Grade = Annotated[int, Field(ge=0, le=3)]
GRADES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion", "mirror")

# Keypoints of a category that only geometry tells apart, such as left and right ones: GeoAware-SC (arXiv 2311.17034).
ALIKE = {
    "aeroplane": "4 5|6 7|8 9|10 11|12 13|14 15|16 17|18 19|20 21",
    "bicycle": "2 3|6 7|9 10",
    "bird": "1 2|10 11|12 13|14 15",
    "boat": "1 2|3 4|5 6|7 8|9 10|11 12",
    "bottle": "0 1|2 3|4 5|6 7|8 9",
    "bus": "0 1|2 3 5 6|4 7|10 13 20 23|11 14 21 24|12 15 22 25|16 17 26 27|18 19 28 29",
    "car": "0 1|2 3 6 7|4 8|5 9|10 13 20 23|11 14 21 24|12 15 22 25|16 17 26 27|18 19 28 29",
    "cat": "2 3|9 10 11 12",
    "chair": "0 1|2 3|4 5 6 7|8 9|10 11|12 13",
    "cow": "2 3|9 10 11 12|15 16 17 18|19 20",
    "dog": "2 3|9 10 11 12",
    "horse": "2 3|10 11 12 13|16 17 18 19",
    "motorbike": "0 1|2 3",
    "person": "8 9|10 11|12 13|14 15|16 17|18 19",
    "pottedplant": "0 1 2 3|4 5|6 8",
    "sheep": "2 3|9 10 11 12|15 16 17 18|19 20",
    "train": "0 1|2 3|4 5|6 7|8 9|10 11|12 13|14 15|16 17",
    "tvmonitor": "0 2 4 6|1 3 5 7|8 10 12 14|9 11 13 15",
}


class SPair(Dataset):
    """One split of SPair-71k.

    split: trn, val or test. prompt: of images without caption; `{category}` is replaced. captions: a JSON file in
    `root` that maps category + file name to a caption; null for none.
    """

    split: Literal["trn", "val", "test"] = "test"
    prompt: str = "a photo of a {category}"
    captions: str | None = None

    def read(self) -> Tables:
        root = Path(self.root)
        folder = root / "PairAnnotation" / self.split
        files = sorted(folder.glob("*.json"))
        if not files:
            raise UserError(f"{folder}: no pair annotations; is {root} SPair-71k's folder (`root`)?")
        problems = Problems()
        read_pairs = {path: problems.take(_read_pair, path) for path in files}
        pairs = {path: pair for path, pair in read_pairs.items() if pair}
        captions = self._captions(root, problems)

        images: dict[str, Path] = {}
        for pair in pairs.values():
            for _, name, *_ in pair.sides():
                relative = f"JPEGImages/{pair.category}/{name}"
                if relative not in images:
                    joined = Path("JPEGImages") / pair.category / name
                    path = problems.take(inside, root, joined.as_posix())
                    images |= {relative: path} if path else {}
        found = inspect_images(images.values(), problems)
        sizes = {relative: (found[p].width, found[p].height) for relative, p in images.items() if p in found}
        for path, pair in pairs.items():
            _check(path, pair, sizes, problems)
        shown = {f"{pair.category}/{pair.trg_imname}": set[str]() for pair in pairs.values()}
        if (root / "ImageAnnotation").is_dir():
            for name in shown:
                path = root / "ImageAnnotation" / Path(name).with_suffix(".json")
                shown[name] = problems.take(_visible, path) or set()
        problems.raise_any()

        rows = []
        for relative in sorted(images):
            category, name = relative.split("/", 1)[1].split("/", 1)
            prompt = captions.get(category + name, self.prompt.replace("{category}", category))
            rows.append(image_row(f"{category}/{Path(name).stem}", relative, found[images[relative]], category, prompt))
        tables = {
            "images": rows,
            "pairs": [_pair_row(path.stem, pair) for path, pair in pairs.items()],
            "keypoints": [row for path, pair in pairs.items() for row in _keypoint_rows(path.stem, pair, sizes, shown)],
            "warnings": problems.warnings,
        }
        return Tables(tables, "longer")

    def _captions(self, root: Path, problems: Problems) -> dict[str, str]:
        if self.captions is None:
            return {}
        path = problems.take(inside, root, self.captions)
        if path is None:
            return {}
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            problems.add(path, "not found; give the captions' name in the data set, or `captions: null`")
            return {}
        except (ValueError, OSError) as error:
            problems.add(path, f"not a readable JSON file ({error})")
            return {}
        if not isinstance(loaded, dict) or not all(isinstance(text, str) for text in loaded.values()):
            problems.add(path, "not a map from category + file name to caption")
            return {}
        return loaded


class PairAnnotation(BaseModel):
    """A file of `PairAnnotation`; fields that are not listed are ignored."""

    model_config = ConfigDict(strict=True)

    src_imname: str
    trg_imname: str
    src_imsize: Size
    trg_imsize: Size
    src_bndbox: Box
    trg_bndbox: Box
    category: str
    src_kps: list[Pixel] = Field(min_length=1)
    trg_kps: list[Pixel] = Field(min_length=1)
    kps_ids: list[str | int]
    viewpoint_variation: Grade
    scale_variation: Grade
    truncation: Grade
    occlusion: Grade
    mirror: Grade

    def sides(self) -> tuple[tuple[str, str, Size, list[Pixel]], ...]:
        """(prefix, image's file name, size, keypoints) of the source and the target."""
        return (
            ("src", self.src_imname, self.src_imsize, self.src_kps),
            ("trg", self.trg_imname, self.trg_imsize, self.trg_kps),
        )


def _read_pair(path: Path) -> PairAnnotation:
    try:
        return PairAnnotation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{path}: {field}" if field else f"{path}"
        raise UserError(f"{where}: {first['msg']}; restore the file from SPair-71k") from None


def _check(path: Path, pair: PairAnnotation, sizes: dict[str, tuple[int, int]], problems: Problems) -> None:
    """Everything about a pair that its types do not say."""
    if pair.category != path.stem.rpartition(":")[2]:
        problems.add(path, f"category: {pair.category!r} disagrees with the file's name")
    if not len(pair.src_kps) == len(pair.trg_kps) == len(pair.kps_ids):
        counts = f"{len(pair.src_kps)}, {len(pair.trg_kps)} and {len(pair.kps_ids)}"
        problems.add(path, f"src_kps, trg_kps, kps_ids: {counts} entries; the numbers must be equal")
    for side, name, (width, height, *_), keypoints in pair.sides():
        size = sizes.get(f"JPEGImages/{pair.category}/{name}")
        if size is None:
            continue  # the image itself is among the problems
        if size != (width, height):
            problems.add(path, f"{side}_imsize: {width}x{height}, but {name} is {size[0]}x{size[1]}")
        for x, y in keypoints:
            if not (0 <= x < size[0] and 0 <= y < size[1]):
                what = "the nearest pixel is matched" if side == "src" else "it is scored as it stands"
                problems.warn(path, f"{side}_kps: ({x}, {y}) lies outside {name}, {size[0]}x{size[1]}; {what}")
    x1, y1, x2, y2 = pair.trg_bndbox
    if x2 <= x1 or y2 <= y1:
        problems.add(path, f"trg_bndbox: {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area, so nothing could be scored")


def _pair_row(name: str, pair: PairAnnotation) -> Row:
    x1, y1, x2, y2 = pair.trg_bndbox
    return {
        "pair": name,
        "category": pair.category,
        "source": f"{pair.category}/{Path(pair.src_imname).stem}",
        "target": f"{pair.category}/{Path(pair.trg_imname).stem}",
        "threshold": max(x2 - x1, y2 - y1),
        **{grade: getattr(pair, grade) for grade in GRADES},
    }


def _visible(path: Path) -> set[str]:
    """The keypoints that an image shows, of a file of `ImageAnnotation`."""
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["kps"]
        return {str(number) for number, point in points.items() if point is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: kps: cannot be read ({error}); restore the file from SPair-71k") from None


def _keypoint_rows(
    name: str, pair: PairAnnotation, sizes: dict[str, tuple[int, int]], shown: dict[str, set[str]]
) -> list[Row]:
    """shown: the keypoints of each target image; empty where its annotation is not there."""
    groups = [set(group.split()) for group in ALIKE.get(pair.category, "").split("|")]
    seen = shown[f"{pair.category}/{pair.trg_imname}"]
    size = sizes[f"JPEGImages/{pair.category}/{pair.src_imname}"]
    rows = []
    for number, (label, source, target) in enumerate(zip(pair.kps_ids, pair.src_kps, pair.trg_kps, strict=True)):
        alike = any(str(label) in group and len(group & seen) > 1 for group in groups)
        rows.append(keypoint_row(name, number, str(label), source, target, size) | {"geometry_aware": alike})
    return rows
