"""SPair-71k (Min et al., arXiv 1908.10543)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ditf.data.catalog import Row, Tables, image_row, keypoint_row
from ditf.data.images import ImageFile
from ditf.data.reading import DatasetReader, normalized, read_json, read_model
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

Point = tuple[FiniteFloat, FiniteFloat]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
Size = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=3)]
Grade = Annotated[int, Field(ge=0, le=3)]
GRADES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion", "mirror")
CAPTIONS = "captions.json"
# Sizes of the release. The splits share no images, and the numbers of images in trn and val are bounds.
PAIRS = {"trn": 53_340, "val": 5_384, "test": 12_234}
IMAGES = 1_800
SPLIT_IMAGES = {"trn": IMAGES, "val": IMAGES, "test": 486}

# Keypoints of a category that only geometry tells apart, such as left and right ones: GeoAware-SC (arXiv 2311.17034).
SYMMETRIC = {
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

    Layout, as released at https://cvlab.postech.ac.kr/research/SPair-71k: `JPEGImages/<category>/<name>.jpg`, one file
    per pair in `PairAnnotation/<split>/`, and one per image in `ImageAnnotation/<category>/`. Without the last,
    no keypoints are marked as geometry-aware.

    Attributes:
        split: trn, val or test.
        prompt: Prompt of images without a caption; `{category}` becomes the image's category.
        captions: JSON file in `root` that maps category + file name, such as "cat2007_000876.jpg", to a caption. With
            "auto", the file `captions.json` is used if it exists; null for none.
    """

    title: ClassVar[str] = "SPair-71k"  # in messages

    split: Literal["trn", "val", "test"] = "test"
    prompt: str = "a photo of a {category}"
    captions: str | None = "auto"

    @property
    def release(self) -> Release:
        counts = {"pairs": PAIRS[self.split], "images": IMAGES}
        return Release(
            counts,
            SPLIT_IMAGES[self.split],
            (500, 375),
            "longer",
            categories=len(SYMMETRIC),
            title=f"SPair-71k {self.split}",
            rows={"pairs": PAIRS[self.split]},
            names=SYMMETRIC.keys(),
        )

    def counts(self) -> dict[str, int]:
        pairs = Path(self.root, "PairAnnotation", self.split).glob("*.json")
        images = Path(self.root, "JPEGImages").glob("*/*.[jJpP]*[gG]")
        return {"pairs": sum(1 for _ in pairs), "images": sum(1 for _ in images)}

    def read(self) -> Tables:
        return self.read_pairs(DatasetReader(self.root), "PairAnnotation", SYMMETRIC)

    def read_pairs(self, reader: DatasetReader, annotations: str, symmetric: Mapping[str, str]) -> Tables:
        """Read pairs in the layout of SPair-71k.

        Args:
            reader: Reader of the data set.
            annotations: Folder of the pair annotations in `root`.
            symmetric: Keypoints of each category that only geometry tells apart, written as in `SYMMETRIC`. Empty if
                they are not known.
        """
        folder = reader.root / annotations / self.split
        files = reader.files(folder, (".json",))
        if not files:
            raise UserError(f"{folder}: no pair annotations; is {reader.root} {self.title}'s folder? Correct `root`.")
        remedy = f"Restore the file from {self.title}."
        annotated = {path: reader.attempt(read_model, path, PairAnnotation, remedy) for path in files}
        pairs = {path: pair for path, pair in annotated.items() if pair}
        paths: dict[str, Path] = {}  # by category and file name
        for pair in pairs.values():
            for _, name, *_ in pair.sides():
                key = f"{pair.category}/{name}"
                if key not in paths and (path := reader.attempt(reader.locate, f"JPEGImages/{key}")):
                    paths[key] = path
        captions = reader.attempt(self._captions, reader, list(paths)) or {}
        image_files = reader.images(paths.values())
        images = {key: image_files[path] for key, path in paths.items() if path in image_files}
        for path, pair in pairs.items():
            _check(path, pair, images, reader)
        visible: dict[str, set[str]] = {f"{pair.category}/{pair.trg_imname}": set() for pair in pairs.values()}
        if symmetric and (reader.root / "ImageAnnotation").is_dir():
            for key in visible.keys() & paths.keys():
                path = reader.locate(f"ImageAnnotation/{Path(key).with_suffix('.json').as_posix()}")
                visible[key] = reader.attempt(_visible_keypoints, path) or set()
        reader.raise_problems()

        rows = []
        for key in sorted(images):
            category, name = key.split("/", 1)
            prompt = captions.get(normalized(category + name), self.prompt.replace("{category}", category))
            relative = reader.relative(paths[key])
            rows.append(image_row(f"{category}/{Path(name).stem}", relative, images[key], category, prompt))
        tables: dict[str, list[Row]] = {
            "images": rows,
            "pairs": [_pair_row(path.stem, pair) for path, pair in pairs.items()],
            "keypoints": [
                row
                for path, pair in pairs.items()
                for row in _keypoint_rows(path.stem, pair, images, visible, symmetric)
            ],
        }
        return Tables({**tables, "warnings": [*reader.finish()]}, "longer")

    def _captions(self, reader: DatasetReader, images: list[str]) -> dict[str, str]:
        """Return the captions by normalized category + file name."""
        if self.captions is None:
            return {}
        path = reader.locate(CAPTIONS if self.captions == "auto" else self.captions)
        if self.captions == "auto" and not path.exists():
            return {}
        captions = read_json(path)
        if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
            raise UserError(
                f"{path}: not a map from category + file name to caption. Correct it, or set `captions: null`."
            )
        keys = [key.replace("/", "", 1) for key in images]
        captions = {normalized(key): text for key, text in captions.items()}
        reader.check_names(captions, [normalized(key) for key in keys], path, "keys")
        if missing := [key for key in keys if normalized(key) not in captions]:
            text = (
                f"no caption for {len(missing)} of {len(keys)} images; their prompt is `prompt` (such as {missing[0]})"
            )
            reader.warn(path, text)
        return captions


class PairAnnotation(BaseModel):
    """A file of `PairAnnotation`. Fields that are not listed here are ignored."""

    model_config = ConfigDict(strict=True)

    src_imname: str
    trg_imname: str
    src_imsize: Size
    trg_imsize: Size
    src_bndbox: Box
    trg_bndbox: Box
    category: str
    src_kps: list[Point] = Field(min_length=1)
    trg_kps: list[Point] = Field(min_length=1)
    kps_ids: list[str | int]
    viewpoint_variation: Grade
    scale_variation: Grade
    truncation: Grade
    occlusion: Grade
    mirror: Grade

    def sides(self) -> tuple[tuple[str, str, Size, list[Point]], ...]:
        """Return prefix, file name of the image, size and keypoints of the source and the target."""
        return (
            ("src", self.src_imname, self.src_imsize, self.src_kps),
            ("trg", self.trg_imname, self.trg_imsize, self.trg_kps),
        )


def _check(path: Path, pair: PairAnnotation, images: dict[str, ImageFile], reader: DatasetReader) -> None:
    """Check what the types of a pair cannot express."""
    if pair.category != path.stem.rpartition(":")[2]:
        reader.problem(path, f"category: {pair.category!r} disagrees with the file's name. Restore the file.")
    if not len(pair.src_kps) == len(pair.trg_kps) == len(pair.kps_ids):
        counts = f"{len(pair.src_kps)}, {len(pair.trg_kps)} and {len(pair.kps_ids)}"
        reader.problem(
            path, f"src_kps, trg_kps, kps_ids: {counts} entries; the numbers must be equal. Restore the file."
        )
    for side, name, (width, height, *_), keypoints in pair.sides():
        image = images.get(f"{pair.category}/{name}")
        if image is None:
            continue  # a problem already
        reader.attempt(image.check_size, (width, height), f"{path}: {side}_imsize", name)
        for x, y in keypoints:
            if not (0 <= x < image.width and 0 <= y < image.height):
                effect = "the nearest pixel is matched" if side == "src" else "it is scored unchanged"
                reader.warn(
                    path, f"{side}_kps: ({x:g}, {y:g}) is outside {name}, {image.width}x{image.height}; {effect}"
                )
    x1, y1, x2, y2 = pair.trg_bndbox
    if x2 <= x1 or y2 <= y1:
        box = f"{x1:g}, {y1:g}, {x2:g}, {y2:g}"
        reader.problem(path, f"trg_bndbox: {box} has no area, so nothing could be scored. Restore the file.")


def _pair_row(name: str, pair: PairAnnotation) -> Row:
    """Return a row of the table `pairs`."""
    x1, y1, x2, y2 = pair.trg_bndbox
    row: dict[str, Any] = {"pair": name, "category": pair.category}
    for column, image in (("source", pair.src_imname), ("target", pair.trg_imname)):
        row[column] = f"{pair.category}/{Path(image).stem}"
    return row | {"threshold": max(x2 - x1, y2 - y1)} | {grade: getattr(pair, grade) for grade in GRADES}


def _visible_keypoints(path: Path) -> set[str]:
    """Return the keypoints that an image shows, from its file of `ImageAnnotation`."""
    try:
        keypoints = read_json(path)["kps"]
        return {str(number) for number, point in keypoints.items() if point is not None}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: kps: cannot be read ({error}). Restore the file from SPair-71k.") from None


def _keypoint_rows(
    name: str,
    pair: PairAnnotation,
    images: dict[str, ImageFile],
    visible: dict[str, set[str]],
    symmetric: Mapping[str, str],
) -> list[Row]:
    """Return the rows of the table `keypoints` of a pair.

    Args:
        name: Name of the pair.
        pair: Its annotation.
        images: Images by category and file name.
        visible: Visible keypoints of each target image; empty without `ImageAnnotation`.
        symmetric: Keypoints of each category that only geometry tells apart; empty if they are not known.
    """
    groups = [set(group.split()) for group in symmetric.get(pair.category, "").split("|")]
    shown = visible[f"{pair.category}/{pair.trg_imname}"]
    size = images[f"{pair.category}/{pair.src_imname}"].size
    rows = []
    for number, (label, source, target) in enumerate(zip(pair.kps_ids, pair.src_kps, pair.trg_kps, strict=True)):
        geometry_aware = any(str(label) in group and len(group & shown) > 1 for group in groups)
        row = keypoint_row(name, number, str(label), source, target, size)
        rows.append(row | ({"geometry_aware": geometry_aware} if symmetric else {}))
    return rows
