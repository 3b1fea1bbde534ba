"""Extraction jobs: the settings that determine features, and the images to extract from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditf.backbones.base import Backbone
from ditf.backbones.device import choose
from ditf.backbones.source import Model
from ditf.data.images import inspect, model_size
from ditf.features.extractor import Extractor
from ditf.features.store_writer import StoreItem
from ditf.provenance import versions_of
from ditf.types import STORE_VERSION, Encoding, Noise, Rule
from ditf.workers import run

if TYPE_CHECKING:
    from distributed import Client

# Libraries whose versions are among the settings that determine features.
LIBRARIES = ("torch", "diffusers", "transformers")


def key_of(pixels_sha256: str, prompt: str) -> str:
    """Return the key of an item in a store: a hash of the image's pixels and of its prompt.

    Args:
        pixels_sha256: Hash of the image, as `ditf.data.images.hash_pixels` returns it.
        prompt: Prompt of the image.
    """
    return hashlib.sha256(f"{pixels_sha256}\n{prompt}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ImageSource:
    """An image from which features are extracted.

    Attributes:
        id: Name of the image in the store.
        path: Path of the image file.
        sha256: SHA-256 of the file's bytes.
        pixels_sha256: Hash of the decoded pixels, from which the noise is seeded.
        width: Width of the upright image in pixels.
        height: Height of the upright image in pixels.
        prompt: Prompt of the image.
    """

    id: str
    path: Path
    sha256: str
    pixels_sha256: str
    width: int
    height: int
    prompt: str

    @classmethod
    def from_file(cls, id: str, path: Path, prompt: str) -> "ImageSource":
        """Read an image file and describe it. Raises `UserError` if it is not a readable image."""
        image = inspect(path)
        return cls(id, path, image.sha256, image.pixels_sha256, image.width, image.height, prompt)


@dataclass(frozen=True)
class ExtractionJob:
    """Settings of an extraction: everything except the images. A job can be sent to a worker.

    Attributes:
        model: The pinned model.
        backbone: Settings of its family.
        rule: How images are resized; see `ditf.data.images.model_size`.
        img_size: Size in pixels to which `rule` resizes an image.
        seed: Seed of the noise.
        encoding: Type of the stored tokens.
        texts: Folder of the encoded prompts.
        dtype: Type of the computation, such as "float32".
        text_dtype: Type in which the prompts were encoded.
        device: "auto", "cpu" or "cuda"; "auto" is resolved where the work runs.
        batch_size: Noise samples per forward pass. Another value changes features only by rounding.
        noise: "per-image", or "shared" by all images of one size.
    """

    model: Model
    backbone: Backbone
    rule: Rule
    img_size: int
    seed: int
    encoding: Encoding
    texts: Path
    dtype: str
    text_dtype: str
    device: str
    batch_size: int
    noise: Noise = "per-image"

    @property
    def extraction_config(self) -> dict[str, Any]:
        """All settings that determine features. Stores with equal values are interchangeable."""
        names = ("rule", "img_size", "seed", "noise", "encoding", "dtype", "text_dtype")
        backbone = self.backbone.model_dump() | {"blocks": sorted(self.backbone.blocks)}
        settings = {name: getattr(self, name) for name in names}
        return {
            "format": STORE_VERSION,
            "model": self.model.extraction_config,
            **backbone,
            **settings,
            **versions_of(LIBRARIES),
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the store that are known before the model is loaded."""
        return {
            "extraction_config": self.extraction_config,
            "source": self.model.source,
            "blocks": sorted(self.backbone.blocks),
            "encoding": self.encoding,
        }

    def load(self) -> Extractor:
        """Load the model."""
        device, dtype = choose(self.device, self.dtype)
        loaded = self.backbone.load(self.model, dtype, device)
        return Extractor(loaded, self.backbone, self.seed, self.batch_size, self.noise)

    def item(self, source: ImageSource, multiple: int, stride: int) -> StoreItem:
        """Return the item of an image in the store.

        Args:
            source: The image.
            multiple: The sides of a resized image are multiples of this number of pixels.
            stride: Pixels that a token of the first block covers along each side.
        """
        width, height = model_size(self.rule, self.img_size, source.width, source.height, multiple)
        key = key_of(source.pixels_sha256, source.prompt)
        return StoreItem(
            source.id, key, (height // stride, width // stride), (source.width, source.height), source.prompt
        )


def resolve_dtype(dtype: str, device: str, client: "Client | None" = None) -> str:
    """Return the type of the computation, such as "float32", to which "auto" resolves where the work runs.

    Args:
        dtype: "auto", "float32" or "bfloat16".
        device: "auto", "cpu" or "cuda".
        client: Client of the workers that run the model, or None for this process.
    """
    [(_, resolved)] = run(client, _dtype_here, [("dtype", (dtype, device))])
    return resolved


def _dtype_here(dtype: str, device: str) -> str:
    """Return the type of the computation on this machine."""
    return str(choose(device, dtype)[1]).removeprefix("torch.")
