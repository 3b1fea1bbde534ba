"""A folder of images, such as a user's own photographs."""

from pathlib import Path

from ditf.data.catalog import Tables, image_row
from ditf.data.images import readable_suffixes
from ditf.data.reading import DatasetReader, normalized, read_csv
from ditf.datasets.base import Dataset
from ditf.errors import UserError

CATEGORY = "image"  # category of images that are not in a subfolder
PROMPTS = "prompts.csv"
SKIP_REMEDY = "Set `skip_unreadable: true` to leave out files that cannot be read."


class Folder(Dataset):
    """Every image in a folder and its subfolders.

    Any layout is accepted. Hidden files are left out, links are followed, and an image's path relative to `root` is its
    id. Images of a subfolder have the subfolder's name as their category.

    Attributes:
        prompt: Prompt of images without one of their own; `{category}` becomes the image's category.
        prompts: CSV file in `root` with the columns `path` and `prompt`, for some or all images. With "auto", the file
            `prompts.csv` is used if it exists; null for none.
        skip_unreadable: Leave out images that cannot be read, with a warning each, instead of stopping.
    """

    prompt: str = "a photo of a {category}"
    prompts: str | None = "auto"
    skip_unreadable: bool = False

    def read(self) -> Tables:
        reader = DatasetReader(self.root, self.skip_unreadable, SKIP_REMEDY)
        root = reader.root
        if not root.is_dir():
            raise UserError(f"{root}: not a folder. Set `root` to a folder of images.")
        prompts_file = self._prompts_file(reader)
        paths = reader.files(root, readable_suffixes(), recursive=True, used=[prompts_file] if prompts_file else [])
        prompts = reader.attempt(_read_prompts, prompts_file) if prompts_file else {}
        known = {normalized(reader.relative(path)) for path in paths}
        reader.check_names(prompts or {}, known, prompts_file or root, "paths")
        for name in prompts or {}:
            if name not in known and not known.isdisjoint(prompts or {}):
                reader.problem(
                    f"{prompts_file}: {name}", f"no such image in {root}. Correct the name or remove the row."
                )
        images = reader.images(paths, annotated=False)
        warnings = reader.finish()
        if not images:
            reasons = "".join(f" {row['warning']}." for row in warnings[:10])
            raise UserError(f"{root}: holds no readable images.{reasons} Set `root` to a folder of images.")
        rows = []
        for path, image in images.items():
            name = reader.relative(path)
            category = path.parent.name if path.parent != root else CATEGORY
            prompt = (prompts or {}).get(normalized(name), self.prompt.replace("{category}", category))
            rows.append(image_row(name, name, image, category, prompt))
        return Tables({"images": rows, "warnings": warnings}, "longer")

    def _prompts_file(self, reader: DatasetReader) -> Path | None:
        """Return the file of prompts, if there is one."""
        if self.prompts is None:
            return None
        path = reader.locate(PROMPTS if self.prompts == "auto" else self.prompts)
        if path.exists():
            return path
        if self.prompts == "auto":
            return None
        raise UserError(f"{path}: not found. Set `prompts` to a CSV file in {reader.root}, or remove the setting.")


def _read_prompts(path: Path) -> dict[str, str]:
    """Return the prompts by normalized name of the image."""
    prompts: dict[str, str] = {}
    for line, row in read_csv(path, ("path", "prompt")).items():
        name = normalized(row["path"].removeprefix("./"))
        if not name:
            raise UserError(f"{path}: line {line}: the path is empty. Name an image, or remove the row.")
        if name in prompts:
            raise UserError(f"{path}: line {line}: {row['path']} occurs twice. Remove one of the rows.")
        prompts[name] = row["prompt"]
    return prompts
