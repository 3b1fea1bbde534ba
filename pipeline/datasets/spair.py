"""SPair-71k (Min et al., arXiv 1908.10543) in its official layout, read into the catalog's tables."""

import functools
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from pipeline.catalog import Problems, inside, inspect_images
from pipeline.engine import HERE, Engine
from pipeline.errors import UserError

Pixel = tuple[int, int]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
Size = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=3)]
Grade = Annotated[int, Field(ge=0, le=3)]


class Pair(BaseModel):
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

    def sides(self) -> tuple[tuple[str, str, Size, list[Pixel], Box], ...]:
        """(prefix, image's file name, size, keypoints, box) of the source and the target."""
        return (
            ("src", self.src_imname, self.src_imsize, self.src_kps, self.src_bndbox),
            ("trg", self.trg_imname, self.trg_imsize, self.trg_kps, self.trg_bndbox),
        )


def read(
    root: Path, split: str, prompt: str, captions: str | None, engine: Engine = HERE
) -> dict[str, list[dict[str, Any]]]:
    """Read and check one split.

    Args:
        root: the folder with `JPEGImages/` and `PairAnnotation/`.
        split: "trn", "val" or "test".
        prompt: of images without caption; `{category}` is replaced.
        captions: a JSON file in `root` that maps category + file name to a caption; None for no captions.

    Returns:
        Rows of the tables images, prompts, pairs and keypoints: images that the split uses, sorted by id.

    Raises:
        UserError: with a line for each problem found.
    """
    folder = root / "PairAnnotation" / split
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no pair annotations; is {root} SPair-71k's folder (`root`)?")
    problems = Problems()
    read_pairs = {path: problems.take(_read_pair, path) for path in files}
    pairs = {path: pair for path, pair in read_pairs.items() if pair}
    caption_of = _captions(root, captions, problems)

    images: dict[str, Path] = {}
    for pair in pairs.values():
        for _, name, *_ in pair.sides():
            relative = f"JPEGImages/{pair.category}/{name}"
            if relative not in images:
                joined = Path("JPEGImages") / pair.category / name
                path = problems.take(functools.partial(inside, root), joined.as_posix())
                images |= {relative: path} if path else {}
    facts = inspect_images(images.values(), problems, engine)
    sizes = {relative: (facts[p].width, facts[p].height) for relative, p in images.items() if p in facts}
    for path, pair in pairs.items():
        _check(path, pair, sizes, problems)
    problems.raise_any()

    rows = []
    for relative in sorted(images):
        category, name = relative.split("/", 1)[1].split("/", 1)
        found = facts[images[relative]]
        rows.append(
            {
                "id": f"{category}/{Path(name).stem}",
                "path": relative,
                **vars(found),
                "category": category,
                "prompt": caption_of.get(category + name, prompt.replace("{category}", category)),
            }
        )
    return {
        "images": rows,
        "prompts": [{"prompt": text} for text in sorted({row["prompt"] for row in rows})],
        "pairs": [_pair_row(path.stem, pair) for path, pair in pairs.items()],
        "keypoints": [row for path, pair in pairs.items() for row in _keypoint_rows(path.stem, pair)],
    }


def _read_pair(path: Path) -> Pair:
    try:
        return Pair.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{path}: {field}" if field else f"{path}"
        raise UserError(f"{where}: {first['msg']}; restore the file from SPair-71k") from None


def _captions(root: Path, name: str | None, problems: Problems) -> dict[str, str]:
    if name is None:
        return {}
    path = problems.take(functools.partial(inside, root), name)
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


def _check(path: Path, pair: Pair, sizes: dict[str, tuple[int, int]], problems: Problems) -> None:
    """Everything about a pair that its types do not say."""
    if pair.category != path.stem.rpartition(":")[2]:
        problems.add(path, f"category: {pair.category!r} disagrees with the file's name")
    if not len(pair.src_kps) == len(pair.trg_kps) == len(pair.kps_ids):
        counts = f"{len(pair.src_kps)}, {len(pair.trg_kps)} and {len(pair.kps_ids)}"
        problems.add(path, f"src_kps, trg_kps, kps_ids: {counts} entries; they must be equally many")
    for side, name, (width, height, *_), keypoints, (x1, y1, x2, y2) in pair.sides():
        size = sizes.get(f"JPEGImages/{pair.category}/{name}")
        if size is None:
            continue  # the image itself is among the problems
        if size != (width, height):
            problems.add(path, f"{side}_imsize: {width}x{height}, but {name} is {size[0]}x{size[1]}")
        for x, y in keypoints:
            if not (0 <= x < size[0] and 0 <= y < size[1]):
                problems.add(path, f"{side}_kps: ({x}, {y}) lies outside {name}, {size[0]}x{size[1]}")
        if x2 <= x1 or y2 <= y1:
            problems.add(path, f"{side}_bndbox: {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area")


def _pair_row(name: str, pair: Pair) -> dict[str, Any]:
    return {
        "pair": name,
        "category": pair.category,
        "source": f"{pair.category}/{Path(pair.src_imname).stem}",
        "target": f"{pair.category}/{Path(pair.trg_imname).stem}",
        "source_box": pair.src_bndbox,
        "target_box": pair.trg_bndbox,
        "viewpoint_variation": pair.viewpoint_variation,
        "scale_variation": pair.scale_variation,
        "truncation": pair.truncation,
        "occlusion": pair.occlusion,
        "mirror": pair.mirror,
    }


def _keypoint_rows(name: str, pair: Pair) -> list[dict[str, Any]]:
    return [
        {
            "pair": name,
            "keypoint": number,
            "name": str(label),
            "source_x": source[0],
            "source_y": source[1],
            "target_x": target[0],
            "target_y": target[1],
        }
        for number, (label, source, target) in enumerate(zip(pair.kps_ids, pair.src_kps, pair.trg_kps, strict=True))
    ]
