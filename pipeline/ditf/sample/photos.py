"""A sample of a folder of images, such as a user has: the photographs in folders by category, with captions."""

from pathlib import Path

from PIL import Image

from ditf.sample.photographs import JPEG_QUALITY, PHOTO_FOLDERS, PHOTOS


def build_photos(root: Path) -> None:
    """Write the photographs and `prompts.csv` into `root`.

    Pixels and prompts equal those of the first image of each category of the SPair-71k sample, so their features are
    equal, too.
    """
    lines = ["path,prompt"]
    for category, names in PHOTO_FOLDERS.items():
        (root / category).mkdir(parents=True)
        for name in names:
            Image.fromarray(PHOTOS[name].pixels()).save(root / category / f"{name}.jpg", quality=JPEG_QUALITY)
            lines.append(f"{category}/{name}.jpg,{PHOTOS[name].caption}")
    (root / "prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
