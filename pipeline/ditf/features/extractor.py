"""A loaded model that gives the features of images: the backbone once per noise sample, means kept."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ditf.backbones.base import Backbone, LoadedBackbone, Text
from ditf.backbones.device import choose
from ditf.backbones.source import Model, pin
from ditf.data.images import decode, model_size, resize_for_model
from ditf.errors import UserError
from ditf.features.descriptors import ChannelStatistics
from ditf.features.store import ImageFeatures
from ditf.features.store_writer import BlockFeatures, StoreItem
from ditf.files import Hashes
from ditf.provenance import versions_of
from ditf.settings import parse
from ditf.types import BOTH, LAYER_NORM, STORE_VERSION, Encoding, Noise, Rule
from ditf.workers import run

if TYPE_CHECKING:
    from distributed import Client

SHAPE = (
    "multiple",
    "strides",
    "channels",
    "norm",
    "conditions",
    "modulation_depends_on_size",
)  # of a store's attributes
LIBRARIES = ("torch", "diffusers", "transformers")


def key_of(sha256: str, prompt: str) -> str:
    """What an item's features depend on besides the store's attributes: the image's bytes and its prompt."""
    return hashlib.sha256(f"{sha256}\n{prompt}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ImageSource:
    """An image to extract from. sha256: of its bytes; width, height: of the file, in pixels."""

    id: str
    path: Path
    sha256: str
    width: int
    height: int
    prompt: str


@dataclass(frozen=True)
class ExtractionJob:
    """All that features depend on besides the images, and how the model is run; it can be sent to a worker.

    rule, img_size: how images are resized; see `model_size`. seed: of the noise. encoding: of the store.
    texts: folder of the encoded prompts. dtype, text_dtype: of the arithmetic, such as "float32". device: "auto" is
    resolved where the work runs. batch_size: noise samples per forward pass; with another, features differ by rounding
    at most. noise: "per-image", or "shared" by all images of one size.
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
        """All that determines an image's features besides the image: what a store is known by."""
        names = ("rule", "img_size", "seed", "noise", "encoding", "dtype", "text_dtype")
        settings = self.backbone.model_dump() | {"blocks": sorted(self.backbone.blocks)}
        own = {name: getattr(self, name) for name in names}
        return {
            "format": STORE_VERSION,
            "model": self.model.extraction_config,
            **settings,
            **own,
            **versions_of(LIBRARIES),
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """Of a store: what made it, where the model lay, and what a reader needs."""
        own = {"blocks": sorted(self.backbone.blocks), "encoding": self.encoding}
        return {"extraction_config": self.extraction_config, "source": self.model.source, **own}

    def load(self) -> "Extractor":
        """The model, loaded."""
        device, dtype = choose(self.device, self.dtype)
        loaded = self.backbone.load(self.model, dtype, device)
        return Extractor(loaded, self.backbone, self.seed, self.batch_size, self.noise)

    def item(self, source: ImageSource, multiple: int, stride: int) -> StoreItem:
        """An image's place in the store. multiple: of its sides, as the model sees it. stride: of the first block."""
        width, height = model_size(self.rule, self.img_size, source.width, source.height, multiple)
        key = key_of(source.sha256, source.prompt)
        return StoreItem(
            source.id, key, (height // stride, width // stride), (source.width, source.height), source.prompt
        )


class Extractor:
    """A loaded model with its settings, which gives the features of images.

    Args:
        loaded: the model.
        backbone: its settings.
        seed: of the noise.
        batch_size: noise samples per forward pass.
        noise: "per-image", or "shared" by all images of one size.
    """

    def __init__(
        self, loaded: LoadedBackbone, backbone: Backbone, seed: int = 0, batch_size: int = 8, noise: Noise = "per-image"
    ) -> None:
        self._noise = noise
        self.loaded, self.backbone, self._seed, self._batch_size = loaded, backbone, seed, batch_size
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
        img_size: int = 640,
        rule: Rule = "longer",
        seed: int = 0,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 8,
        **settings: Any,
    ) -> "Extractor":
        """Load a model for use in Python.

        Args:
            source: a Hub id, a local folder, or "tiny-SEED" for a tiny random model.
            type: the family, such as "flux", or "package.module.Class". revision: on the Hub.
            block: the block whose input is the feature.
            img_size, rule: how images are resized; see `ditf.data.images.model_size`.
            seed: of the noise.
            dtype: "auto" (bfloat16 on a GPU, float32 on a CPU), "float32" or "bfloat16". device: "auto", "cpu", "cuda".
            batch_size: noise samples per forward pass.
            **settings: the family's own, such as timestep, ensemble_size, guidance.

        Raises:
            UserError: the model cannot be loaded, or a setting is wrong.
        """
        model = pin(type, source, revision, Hashes(None))
        backbone: Backbone = parse(model.backbone, settings | ({} if block is None else {"blocks": [block]}), "")
        where, kind = choose(device, dtype)
        extractor = cls(backbone.load(model, kind, where), backbone, seed, batch_size)
        extractor._resize = (rule, img_size)

        @functools.lru_cache(maxsize=64)
        def encode_text(prompt: str) -> Text:
            return next(iter(backbone.encode_prompts(model, [prompt], kind, where)))

        extractor._encode_text = encode_text
        return extractor

    def __call__(self, image: Image.Image | NDArray[np.uint8] | Path | str, prompt: str = "") -> ImageFeatures:
        """Features of one image at the first block.

        Args:
            image: a file, an image of PIL's, or RGB pixels [height, width, 3]. A file gets the noise that it gets in a
                store, which depends on its bytes.
            prompt: what it shows, for models that take text.
        """
        if isinstance(image, (str, Path)):
            data = Path(image).read_bytes()
            pixels = decode(data, Path(image))
        else:
            pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image, np.uint8)
            data = pixels.tobytes()
        if self._encode_text is None:
            raise UserError("this extractor has no text encoder; make one with `Extractor.from_pretrained`")
        resized = resize_for_model(pixels, *self._resize, self.loaded.stride)
        found = self.features(resized, self._encode_text(prompt), hashlib.sha256(data).hexdigest())
        block = self.backbone.blocks[0]
        tokens, modulation = found[block]
        stride, loaded = self.loaded.shape(block)[0], self.loaded
        rest = {} if modulation is None else dict(zip(loaded.conditions, modulation, strict=True))
        return ImageFeatures(
            tokens,
            rest.pop(BOTH, None),
            grid=(resized.shape[0] // stride, resized.shape[1] // stride),
            size=(pixels.shape[1], pixels.shape[0]),
            massive=ChannelStatistics.of([tokens]).massive,
            conditions=rest,
            norm=loaded.norm or LAYER_NORM,
        )

    @property
    def shape(self) -> dict[str, Any]:
        """What a store's attributes say of the model."""
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

    def features(self, pixels: NDArray[np.uint8], text: Text, sha256: str) -> dict[int, BlockFeatures]:
        """Ensembled features of one image for each block: tokens [n, C], modulation [conditions, 3, C] or None.

        Args:
            pixels: RGB, resized for the model, [height, width, 3].
            text: its encoded prompt.
            sha256: of the image; the noise is seeded from it, whatever the order and batch size.
        """
        size = self.backbone.ensemble_size
        return self.ensembles(pixels, text, sha256, [size])[size]

    def ensembles(
        self, pixels: NDArray[np.uint8], text: Text, sha256: str, sizes: Sequence[int]
    ) -> dict[int, dict[int, BlockFeatures]]:
        """The same for several ensemble sizes, in ascending order: means of the first noise samples of the largest."""
        total: dict[int, Tensor] = {}
        means: dict[int, dict[int, NDArray[np.float32]]] = {}
        own = sha256 if self._noise == "per-image" else self._noise
        with torch.inference_mode():
            encoded = self.loaded.encode(torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1)
            for start in range(0, sizes[-1], self._batch_size):
                end = min(start + self._batch_size, sizes[-1])
                noise = [noise_generator(self._seed, own, sample) for sample in range(start, end)]
                captured = self.loaded.capture(encoded, text, noise)
                begin = start
                for stop in sorted({size for size in sizes if start < size <= end} | {end}):
                    for block, tokens in captured.items():
                        part = tokens[begin - start : stop - start].float().sum(0)
                        total[block] = total[block] + part if block in total else part
                    if stop in sizes:
                        means[stop] = {block: (tokens / stop).cpu().numpy() for block, tokens in total.items()}
                    begin = stop
            conditions = self.loaded.conditions if self.loaded.norm else ()
            found = [self.loaded.modulation(encoded, text, condition) for condition in conditions]
        adaln = {b: torch.stack([one[b].float() for one in found]).cpu().numpy() for b in (found[0] if found else ())}
        return {n: {b: (tokens, adaln.get(b)) for b, tokens in blocks.items()} for n, blocks in means.items()}


def noise_generator(seed: int, sha256: str, sample: int) -> torch.Generator:
    """The generator of one noise sample of one image, or of what stands for all images, on the CPU."""
    digest = hashlib.sha256(f"{seed} {sha256} {sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def resolve_dtype(dtype: str, device: str, client: "Client | None" = None) -> str:
    """The dtype, such as "float32", that `dtype` and `device` mean where the work runs."""
    [(_, found)] = run(client, _dtype_here, [("dtype", (dtype, device))])
    return found


def _dtype_here(dtype: str, device: str) -> str:
    return str(choose(device, dtype)[1]).removeprefix("torch.")
