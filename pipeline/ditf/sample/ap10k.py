"""A sample in the layout of AP-10K's original release: views of the photographs, each with 17 keypoints."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ditf.sample.photographs import JPEG_QUALITY, PHOTO_FOLDERS
from ditf.sample.views import views


def build_ap10k(root: Path, seed: int) -> None:
    """Write the sample into `root`. `prepare_ap10k` then makes the pairs of the benchmark."""
    species = [(family, name) for family, names in PHOTO_FOLDERS.items() for name in names]
    numbers = {name: number for number, (_, name) in enumerate(species, 1)}
    categories = [{"id": numbers[name], "name": name, "supercategory": family} for family, name in species]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (root / "data").mkdir(parents=True)
    for view in views(seed):
        height, width = view.pixels.shape[:2]
        name, number = f"{view.name}.jpg", int(view.name)
        Image.fromarray(view.pixels).save(root / "data" / name, quality=JPEG_QUALITY)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        keypoints = [
            [round(x), round(y), 2] if visible else [0, 0, 0]
            for (x, y), visible in zip(view.points, view.visible, strict=True)
        ]
        x1, y1, x2, y2 = view.box
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": numbers[view.category],
                "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "num_keypoints": int(view.visible.sum()),
                "keypoints": [int(value) for keypoint in keypoints for value in keypoint],
            }
        )
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations" / "ap10k-train-split1.json").write_text(json.dumps(document), encoding="utf-8")
