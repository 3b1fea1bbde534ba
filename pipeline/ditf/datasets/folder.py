"""A folder of images, or of folders of images: the user's own."""

import csv
from pathlib import Path

from PIL import Image

from ditf.data.catalog import Problems, Tables, image_row, inside, inspect_images
from ditf.datasets.base import Dataset
from ditf.errors import UserError

PLAIN = "image"  # the category of images that lie in the folder itself


class Folder(Dataset):
    """Every image in a folder and below, but for hidden files and folders; the path from `root` is an image's id.

    prompt: a template; `{category}` becomes the name of the folder that the image lies in. prompts: a CSV file in
    `root` with the columns path and prompt, for some or all images; null for none. skip_unreadable: leave out images
    that cannot be read, with a warning each, instead of stopping.
    """

    prompt: str = "a photo of a {category}"
    prompts: str | None = None
    skip_unreadable: bool = False

    def read(self) -> Tables:
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"{root}: not a folder; set `root` to a folder of images")
        problems, suffixes = Problems(), readable_suffixes()
        paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]
        paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]
        paths = [path for path in paths if problems.take(inside, root, path.relative_to(root).as_posix())]
        given = _prompts(root, self.prompts) if self.prompts is not None else {}
        known = {path.relative_to(root).as_posix() for path in paths}
        for name in given:
            if name not in known:
                problems.add(root / str(self.prompts), f"{name}: no such image in {root}; correct it or remove the row")
        unreadable = Problems()
        found = inspect_images(paths, unreadable)
        if self.skip_unreadable:
            for line in unreadable.lines:
                problems.warn(*line.split(": ", 1))
        else:
            problems.lines += unreadable.lines
        images = []
        for path, image in found.items():
            name = path.relative_to(root).as_posix()
            category = path.parent.name if path.parent != root else PLAIN
            prompt = given.get(name, self.prompt.replace("{category}", category))
            images.append(image_row(name, name, image, category, prompt))
        problems.raise_any()
        if not images:
            raise UserError(f"{root}: holds no readable images")
        return Tables({"images": images, "warnings": problems.warnings}, "longer")


def readable_suffixes() -> set[str]:
    """The suffixes, such as ".jpg", of the pixel formats that PIL reads."""
    extensions = Image.registered_extensions()  # loads PIL's plugins, too
    return {suffix for suffix, format in extensions.items() if format in Image.OPEN} - {".pdf", ".eps", ".ps"}


def _prompts(root: Path, name: str) -> dict[str, str]:
    """The prompts of a CSV file, by image."""
    path = inside(root, name)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; set `prompts` to a CSV in {root}, or to null") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from None
    given: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        if not row.get("path") or row.get("prompt") is None:
            raise UserError(f"{path}: line {number}: needs the columns path and prompt")
        if row["path"] in given:
            raise UserError(f"{path}: line {number}: {row['path']} occurs twice")
        given[row["path"]] = row["prompt"]
    return given
