"""A folder of images, or of folders of images: the user's own."""

import csv
from pathlib import Path
from typing import Any

from pipeline.catalog import Problems, inside, inspect_images
from pipeline.engine import HERE, Engine
from pipeline.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
PLAIN = "image"  # the category of images that lie in the folder itself


def read(root: Path, prompt: str, prompts: str | None, engine: Engine = HERE) -> dict[str, list[dict[str, Any]]]:
    """Read and check a folder.

    Args:
        root: the folder. Every image in it and below is taken, but for hidden files and folders; the image's
            path from here is its id.
        prompt: a template; `{category}` becomes the name of the folder that the image lies in.
        prompts: a CSV file in `root` with the columns path and prompt, for some or all images; or None.

    Returns:
        Rows of the tables images and prompts, sorted by path.

    Raises:
        UserError: with a line for each problem found.
    """
    if not root.is_dir():
        raise UserError(f"{root}: not a folder; set `folder.root` to a folder of images")
    problems = Problems()
    paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    paths = [path for path in paths if problems.take(lambda p: inside(root, p), path.relative_to(root).as_posix())]
    given = _prompts(root, prompts) if prompts is not None else {}
    known = {path.relative_to(root).as_posix() for path in paths}
    for name in given:
        if name not in known:
            problems.add(root / str(prompts), f"{name}: no such image in {root}; correct the path or remove the row")
    facts = inspect_images(paths, problems, engine)
    images = []
    for path, found in facts.items():
        name = path.relative_to(root).as_posix()
        category = path.parent.name if path.parent != root else PLAIN
        text = given.get(name, prompt.replace("{category}", category))
        images.append({"id": name, "path": name, **vars(found), "category": category, "prompt": text})
    problems.raise_any()
    if not images:
        raise UserError(f"{root}: holds no images ({', '.join(sorted(SUFFIXES))})")
    distinct = sorted({row["prompt"] for row in images})
    return {"images": images, "prompts": [{"prompt": text} for text in distinct]}


def _prompts(root: Path, name: str) -> dict[str, str]:
    """The prompts of a CSV file, by image."""
    path = inside(root, name)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; set `folder.prompts` to a CSV in {root}, or to null") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from None
    given: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        if not row.get("path") or row.get("prompt") is None:
            raise UserError(f"{path}: line {number}: needs the columns path and prompt")
        if row["path"] in given:
            raise UserError(f"{path}: line {number}: {row['path']} stands twice")
        given[row["path"]] = row["prompt"]
    return given
