"""Compute the features of images with a loaded model, averaged over noise samples."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ditf.backbones.base import Backbone, LoadedBackbone, Text
from ditf.backbones.device import choose
from ditf.backbones.source import LoadingSettings, Model, ModelSettings, pin
from ditf.data.images import RGB, hash_pixels, read_rgb, resize_for_model, to_rgb
from ditf.errors import UserError
from ditf.features.descriptors import ChannelStatistics
from ditf.features.reader import ImageFeatures
from ditf.features.settings import ExtractionSettings
from ditf.features.store_writer import BlockFeatures
from ditf.files import Hashes
from ditf.registry import find_type
from ditf.settings import parse
from ditf.types import BOTH, LAYER_NORM, Noise, Rule

# Attributes of a store that describe its model.
SHAPE = ("multiple", "strides", "channels", "norm", "conditions", "modulation_depends_on_size")


class Extractor:
    """A loaded model that computes the features of images. Create one with `Extractor.from_pretrained`.

    Args:
        loaded: The loaded model.
        backbone: Settings of its family.
        seed: Seed of the noise.
        batch_size: Noise samples per forward pass.
        noise: "per-image", or "shared" by all images of one size.
    """

    def __init__(
        self, loaded: LoadedBackbone, backbone: Backbone, seed: int = 0, batch_size: int = 8, noise: Noise = "per-image"
    ) -> None:
        self.loaded, self.backbone = loaded, backbone
        self._seed, self._batch_size, self._noise = seed, batch_size, noise
        self._model: Model | None = None
        self._encode_text: Callable[[str], Text] | None = None
        self._resize: tuple[Rule, int] = ("longer", 640)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        type: str = "flux",
        revision: str = "main",
        block: int | None = None,
        blocks: Iterable[int] | None = None,
        img_size: int = 640,
        rule: Rule = "longer",
        seed: int = 0,
        noise: Noise = "per-image",
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 8,
        **settings: Any,
    ) -> "Extractor":
        """Load a model for use in Python. Values are checked like those in `params.yaml`.

        Args:
            source: Hub id, local folder, "miniature" for the small trained FLUX in this package, or "tiny-SEED" for a
                tiny random model.
            type: Family of the model, such as "flux", or "package.module.Class".
            revision: Branch, tag or commit on the Hub.
            block: Block whose features are captured. Each family has its own default.
            blocks: Several blocks, captured in one pass. The extractor then returns a dictionary.
            img_size: Size in pixels to which `rule` resizes an image.
            rule: How images are resized; see `ditf.data.images.model_size`.
            seed: Seed of the noise.
            noise: "per-image", or "shared" by all images of one size.
            dtype: "auto" (bfloat16 on a GPU, float32 on a CPU), "float32" or "bfloat16".
            device: "auto", "cpu" or "cuda".
            batch_size: Noise samples per forward pass.
            **settings: Settings of the family, such as timestep, ensemble_size and guidance, and loading options, such
                as offload and quantize.

        Raises:
            UserError: The model cannot be loaded, or a value is wrong.
        """
        if block is not None and blocks is not None:
            raise UserError("block, blocks: give one of them")
        if block is not None or blocks is not None:
            settings["blocks"] = [block] if blocks is None else list(blocks)
        options = {name: settings.pop(name) for name in LoadingSettings.model_fields if name in settings}
        entry = {"type": type, "source": source, "revision": revision, "device": device, "batch_size": batch_size}
        requested = parse(ModelSettings, {"dtype": dtype, **entry, **options}, "")
        backbone: Backbone = parse(find_type(Backbone, type), settings, "")
        images = parse(ExtractionSettings, {"img_size": img_size, "rule": rule, "seed": seed, "noise": noise}, "")
        model = pin(type, source, revision, Hashes(None), requested.loading)
        torch_device, torch_dtype = choose(device, dtype)
        extractor = cls(
            backbone.load(model, torch_dtype, torch_device), backbone, images.seed, batch_size, images.noise
        )
        extractor._model, extractor._resize = model, (images.rule, images.img_size)

        @functools.lru_cache(maxsize=64)
        def encode_text(prompt: str) -> Text:
            return next(iter(backbone.encode_prompts(model, [prompt], torch_dtype, torch_device)))

        extractor._encode_text = encode_text
        return extractor

    def __repr__(self) -> str:
        model = f"{self._model.family} {self._model.source!r}" if self._model else type(self.loaded).__name__
        settings = ", ".join(f"{name}={value}" for name, value in self.backbone.model_dump().items())
        rule, img_size = self._resize
        return f"Extractor({model}, {settings},\n          rule={rule!r}, img_size={img_size}, seed={self._seed})"

    def __call__(self, image: Image.Image | NDArray[Any] | Path | str, prompt: str = "") -> Any:
        """Compute the features of one image.

        Args:
            image: Path of an image file, a PIL image, or a uint8 array: RGB or RGBA [height, width, 3 or 4], or grey
                [height, width]. Equal pixels give equal features.
            prompt: Description of the image, for models that take text.

        Returns:
            `ImageFeatures` if the extractor captures one block; otherwise a dictionary from block to `ImageFeatures`.
            `extract` always returns the dictionary.

        Raises:
            UserError: The image cannot be read, or has an unsupported type or shape.
        """
        features = self.extract(image, prompt)
        return features if len(features) > 1 else next(iter(features.values()))

    def extract(self, image: Image.Image | NDArray[Any] | Path | str, prompt: str = "") -> dict[int, ImageFeatures]:
        """Compute the features of one image at every captured block.

        Args:
            image: The image, as for `__call__`.
            prompt: Description of the image, for models that take text.

        Returns:
            `ImageFeatures` by block.

        Raises:
            UserError: The image cannot be read, or has an unsupported type or shape.
        """
        if self._encode_text is None:
            raise UserError("this extractor has no text encoder. Make one with `Extractor.from_pretrained`.")
        if not isinstance(prompt, str):
            raise UserError(f"prompt: {prompt!r:.80} is not a string")
        pixels = _pixels_of(image)
        resized = resize_for_model(pixels, *self._resize, self.loaded.stride)
        blocks = self.features(resized, self._encode_text(prompt), hash_pixels(pixels))
        return {block: self._image_features(block, *blocks[block], resized, pixels) for block in self.backbone.blocks}

    def _image_features(
        self,
        block: int,
        tokens: NDArray[np.float32],
        modulation: NDArray[np.float32] | None,
        resized: RGB,
        pixels: RGB,
    ) -> ImageFeatures:
        """Return the features of one block.

        Args:
            block: Index of the block.
            tokens: Tokens of the block, [n, C].
            modulation: Modulation of the block, [conditions, 3, C], or None without AdaLN.
            resized: The image as the model sees it.
            pixels: The image before resizing.
        """
        stride, loaded = self.loaded.shape(block)[0], self.loaded
        conditions = {} if modulation is None else dict(zip(loaded.conditions, modulation, strict=True))
        return ImageFeatures(
            tokens,
            conditions.pop(BOTH, None),
            grid=(resized.shape[0] // stride, resized.shape[1] // stride),
            size=(pixels.shape[1], pixels.shape[0]),
            massive=ChannelStatistics.of([tokens]).massive,
            conditions=conditions,
            norm=loaded.norm or LAYER_NORM,
            pixels=pixels,
        )

    @property
    def shape(self) -> dict[str, Any]:
        """The attributes of a store that describe the model, by their names in `SHAPE`."""
        loaded, shapes = self.loaded, [self.loaded.shape(block) for block in sorted(self.backbone.blocks)]
        values = (
            loaded.stride,
            [stride for stride, _ in shapes],
            [channels for _, channels in shapes],
            asdict(loaded.norm) if loaded.norm else None,
            list(loaded.conditions) if loaded.norm else [],
            loaded.modulation_depends_on_size,
        )
        return dict(zip(SHAPE, values, strict=True))

    def features(self, pixels: RGB, text: Text, image_hash: str) -> dict[int, BlockFeatures]:
        """Compute the features of one resized image, averaged over the noise samples.

        Args:
            pixels: RGB pixels resized for the model, uint8 [height, width, 3].
            text: The encoded prompt.
            image_hash: Hash of the image before resizing, which seeds the noise. Order and batch size do not change the
                noise.

        Returns:
            For each block, tokens float32 [n, C] and modulation float32 [conditions, 3, C], or None without AdaLN.
        """
        size = self.backbone.ensemble_size
        return self.ensembles(pixels, text, image_hash, [size])[size]

    def ensembles(
        self,
        pixels: RGB,
        text: Text,
        image_hash: str,
        sizes: Sequence[int],
        report: Callable[[int], object] = lambda samples: None,
    ) -> dict[int, dict[int, BlockFeatures]]:
        """Compute the features of one resized image for several ensemble sizes in one set of passes.

        Args:
            pixels: RGB pixels resized for the model, uint8 [height, width, 3].
            text: The encoded prompt.
            image_hash: Hash of the image before resizing.
            sizes: Ensemble sizes in ascending order. A smaller ensemble is the first noise samples of the largest.
            report: Called after each pass of the model with the number of finished noise samples.

        Returns:
            For each ensemble size, what `features` returns.
        """
        total: dict[int, Tensor] = {}
        means: dict[int, dict[int, NDArray[np.float32]]] = {}
        noise_key = image_hash if self._noise == "per-image" else self._noise
        with torch.inference_mode():
            encoded = self.loaded.encode(torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1)
            for start in range(0, sizes[-1], self._batch_size):
                end = min(start + self._batch_size, sizes[-1])
                noise = [noise_generator(self._seed, noise_key, sample) for sample in range(start, end)]
                captured = self.loaded.capture(encoded, text, noise)
                begin = start
                for stop in sorted({size for size in sizes if start < size <= end} | {end}):
                    for block, tokens in captured.items():
                        added = tokens[begin - start : stop - start].float().sum(0)
                        total[block] = total[block] + added if block in total else added
                    if stop in sizes:
                        means[stop] = {block: (tokens / stop).cpu().numpy() for block, tokens in total.items()}
                    begin = stop
                report(end)
            conditions = self.loaded.conditions if self.loaded.norm else ()
            modulations = [self.loaded.modulation(encoded, text, condition) for condition in conditions]
        adaln = {
            block: torch.stack([modulation[block].float() for modulation in modulations]).cpu().numpy()
            for block in (modulations[0] if modulations else ())
        }
        return {
            size: {block: (tokens, adaln.get(block)) for block, tokens in blocks.items()}
            for size, blocks in means.items()
        }


def _pixels_of(image: object) -> RGB:
    """Return the upright RGB pixels of an image: a path, a PIL image or an array."""
    if isinstance(image, (str, Path)):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image, "image")
        except UserError:
            raise
        except Exception as error:  # PIL decodes an opened file only now, and decoders raise exceptions of any kind
            raise UserError(f"image: cannot be read ({error}). Give a complete image.") from None
    if not isinstance(image, np.ndarray):
        raise UserError(f"image: {type(image).__name__} is not supported. Give a path, a PIL image or a uint8 array.")
    colours = image.ndim == 3 and image.shape[2] in (3, 4)
    if image.dtype != np.uint8 or not (colours or image.ndim == 2) or 0 in image.shape:
        raise UserError(
            f"image: an array of {image.dtype} {list(image.shape)} is not supported. Give uint8 values 0 to 255, RGB "
            "[height, width, 3] or grey [height, width]."
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(image)), "image")


def noise_generator(seed: int, image_hash: str, sample: int) -> torch.Generator:
    """Return the random generator of one noise sample of an image, on the CPU.

    Args:
        seed: Seed of the extraction.
        image_hash: Hash of the image, or "shared" for images that share their noise.
        sample: Index of the noise sample.
    """
    digest = hashlib.sha256(f"{seed} {image_hash} {sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
