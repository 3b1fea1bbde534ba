"""A sample in the layout of ADE20K: scenes made of pieces of photographs, and masks of their classes."""

from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from ditf.sample.photographs import JPEG_QUALITY, PHOTOS

TEXTURES = ("coffee", "cat", "motorcycle", "galaxy")  # classes 1 to 4
WIDTH, HEIGHT = 160, 128
BORDER = 4  # pixels at the border of a mask that are 0, which is ignored
IMAGES = {"training": 16, "validation": 8}


def build_ade20k(root: Path, seed: int) -> None:
    """Write the sample into `root`. Each scene has a piece of each photograph in one of its four quarters."""
    textures = [PHOTOS[name].pixels() for name in TEXTURES]
    for split, count in IMAGES.items():
        rng = np.random.default_rng([seed, count])
        images, annotations = (root / kind / split for kind in ("images", "annotations"))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for number in range(count):
            image, mask = np.empty((HEIGHT, WIDTH, 3), np.uint8), np.empty((HEIGHT, WIDTH), np.uint8)
            column, row = rng.integers(48, WIDTH - 48), rng.integers(40, HEIGHT - 40)
            quarters = product((slice(row), slice(row, None)), (slice(column), slice(column, None)))
            for label, (rows, columns) in zip(rng.permutation(len(textures)), quarters, strict=True):
                height, width = mask[rows, columns].shape
                texture = textures[label]
                y, x = rng.integers(texture.shape[0] - height), rng.integers(texture.shape[1] - width)
                image[rows, columns], mask[rows, columns] = texture[y : y + height, x : x + width], label + 1
            inner = np.zeros_like(mask)
            inner[BORDER:-BORDER, BORDER:-BORDER] = mask[BORDER:-BORDER, BORDER:-BORDER]
            Image.fromarray(image).save(images / f"{split}_{number:03d}.jpg", quality=JPEG_QUALITY)
            Image.fromarray(inner).save(annotations / f"{split}_{number:03d}.png")
