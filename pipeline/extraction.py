"""Features of images: VAE once, noise draws through the transformer, means kept. Resumes where it stopped."""

import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline.backbones.flux import FluxTransformer, Text, weight_patterns
from pipeline.backbones.vae import LatentEncoder
from pipeline.engine import Engine, Spec, engine
from pipeline.images import TOKEN, Rule, for_model, model_size, read_rgb
from pipeline.model import Model
from pipeline.store import Encoding, Features, FeatureStore, Item
from pipeline.text import load_text
from pipeline.writer import Loose, StoreWriter

LIBRARIES = ("torch", "diffusers", "transformers")
LOOKAHEAD = 4  # images decoded, or features written, ahead of or behind the model


@dataclass(frozen=True)
class Settings:
    """What, besides the model and the images, determines features.

    timestep: t in 0..1000. blocks: captured in one pass. ensemble_size: noise draws averaged.
    rule, img_size: how images are resized. seed: of the noise.
    """

    timestep: int
    blocks: tuple[int, ...]
    ensemble_size: int
    guidance: float
    rule: Rule
    img_size: int
    seed: int

    @classmethod
    def of(cls, store: FeatureStore) -> "Settings":
        """Those that a store was made with."""
        values = {field.name: store.attributes[field.name] for field in fields(cls)}
        return cls(**values | {"blocks": tuple(values["blocks"])})


@dataclass(frozen=True)
class Source:
    """An image to extract from. sha256: of its bytes; width, height: of the file, in pixels."""

    id: str
    path: Path
    sha256: str
    width: int
    height: int
    prompt: str

    def item(self, settings: Settings) -> Item:
        """Its place in the store."""
        width, height = model_size(settings.rule, settings.img_size, self.width, self.height)
        key = hashlib.sha256(f"{self.sha256}\n{self.prompt}".encode()).hexdigest()[:32]
        return Item(self.id, key, (height // TOKEN, width // TOKEN))


class Extractor:
    """A loaded model with its settings. batch_size: draws a forward pass; changes features by rounding at most."""

    def __init__(
        self,
        transformer: FluxTransformer,
        encoder: LatentEncoder,
        settings: Settings,
        batch_size: int,
    ) -> None:
        self._transformer, self._encoder = transformer, encoder
        self._settings, self._batch_size = settings, batch_size

    @classmethod
    def load(cls, model: Model, settings: Settings, dtype: torch.dtype, device: str, batch_size: int) -> "Extractor":
        """Load of `model` what `settings` need."""
        weights = weight_patterns(model.component("transformer", ()), settings.blocks)
        transformer = FluxTransformer.load(model.component("transformer", weights), settings.blocks, dtype, device)
        return cls(transformer, LatentEncoder.load(model.component("vae"), dtype, device), settings, batch_size)

    def features(self, pixels: NDArray[np.uint8], text: Text, sha256: str) -> dict[int, Features]:
        """Ensembled features of one image for each block.

        Args:
            pixels: RGB, resized for the model, [height, width, 3].
            text: its encoded prompt.
            sha256: of the image file; the noise is seeded from it, whatever the order and batch size.
        """
        s = self._settings
        image = torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1
        posterior = self._encoder.encode(image)
        total: dict[int, Tensor] = {}
        for start in range(0, s.ensemble_size, self._batch_size):
            draws = range(start, min(start + self._batch_size, s.ensemble_size))
            noise = torch.stack([_noise(s.seed, sha256, draw, posterior.mean.shape) for draw in draws])
            latents = self._encoder.noisy(posterior, noise, s.timestep)
            captured = self._transformer.capture(latents, text, s.timestep, s.guidance)
            for block, tokens in captured.items():
                part = tokens.float().sum(0)
                total[block] = total[block] + part if block in total else part
        modulation = self._transformer.modulation(text, s.timestep, s.guidance)
        return {
            block: Features((tokens / s.ensemble_size).cpu().numpy(), modulation[block].float().cpu().numpy())
            for block, tokens in total.items()
        }


def extract(
    sources: Sequence[Source],
    settings: Settings,
    writer: StoreWriter,
    load_extractor: Callable[[], Extractor],
    load_text: Callable[[str], Text],
    reuse: Iterable[FeatureStore] = (),
) -> int:
    """Write the features of all sources that `writer` lacks.

    Args:
        sources: in the order of the writer's items.
        settings: of the extraction.
        writer: of the store; what it holds already is not computed again.
        load_extractor: called once, and only if something must be computed.
        load_text: gives a prompt's embeddings.
        reuse: stores made with the same settings and model, whose items are copied where the keys agree.

    Returns:
        The number of images that went through the model.
    """
    _copy(writer, reuse)
    missing = writer.missing()
    if not missing:
        return 0
    extractor = load_extractor()
    texts: dict[str, Text] = {}
    with (
        ThreadPoolExecutor(1) as readers,
        ThreadPoolExecutor(1) as writers,
        tqdm(desc="features", total=len(sources), initial=len(sources) - len(missing), unit="image") as bar,
    ):
        reading = [readers.submit(_read, sources[i], settings) for i in missing[:LOOKAHEAD]]
        writing: list[Future[Any]] = []
        try:
            for position, index in enumerate(missing):
                pixels = reading.pop(0).result()
                if position + LOOKAHEAD < len(missing):
                    reading.append(readers.submit(_read, sources[missing[position + LOOKAHEAD]], settings))
                source = sources[index]
                if source.prompt not in texts:
                    texts = {source.prompt: load_text(source.prompt)}
                features = extractor.features(pixels, texts[source.prompt], source.sha256)
                writing.append(writers.submit(writer.write, index, features))
                while len(writing) > LOOKAHEAD:
                    writing.pop(0).result()
                    bar.update()
            for write in writing:
                write.result()
                bar.update()
        finally:
            for task in reading:  # what is computed is still written
                task.cancel()
    return len(missing)


def _noise(seed: int, sha256: str, draw: int, shape: torch.Size) -> Tensor:
    """Standard normal noise of one draw, for the posterior and for z_t: [2, *shape], made on the CPU."""
    digest = hashlib.sha256(f"{seed} {sha256} {draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn((2, *shape), generator=generator)


def _read(source: Source, settings: Settings) -> NDArray[np.uint8]:
    return for_model(read_rgb(source.path), settings.rule, settings.img_size)


def _copy(writer: StoreWriter, stores: Iterable[FeatureStore]) -> None:
    """Copy the items that an earlier store holds under the same key."""
    for store in stores:
        known = dict(zip(store.keys, store.ids, strict=True))
        for index in writer.missing():
            item = writer.items[index]
            if item.key in known and store.grid(known[item.key]) == item.grid:
                writer.loose.write_encoded(index, {b: store.stored(b, known[item.key]) for b in writer.blocks})
                writer.accept(index)


@dataclass(frozen=True)
class Job:
    """All that features depend on besides the images, and how the model is run: it can be sent to a worker.

    encoding: of the store. batch_size: draws a forward pass. texts: folder of the encoded prompts.
    """

    model: Model
    settings: Settings
    encoding: Encoding
    dtype: torch.dtype
    device: str
    batch_size: int
    texts: Path

    @property
    def facts(self) -> dict[str, Any]:
        """All that determines an image's features, besides the image: attributes of a store, and its fingerprint."""
        named = asdict(self.settings) | {"blocks": list(self.settings.blocks)}
        dtype = str(self.dtype).removeprefix("torch.")
        return {"model_digest": self.model.digest, "dtype": dtype, "encoding": self.encoding, **named}

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of a store: `facts`, and what else one may want to know of it."""
        return {**self.facts, "model": self.model.source, **{name: version(name) for name in LIBRARIES}}

    def load(self) -> Extractor:
        """The model, loaded."""
        return Extractor.load(self.model, self.settings, self.dtype, self.device, self.batch_size)

    def absolute(self) -> "Job":
        """The same, for a process in another folder."""
        source = Path(self.model.source)
        model = replace(self.model, source=str(source.resolve())) if source.is_dir() else self.model
        return replace(self, model=model, texts=self.texts.resolve())


def make_store(
    folder: Path, sources: Sequence[Source], job: Job, spec: Spec = "none", reuse: Iterable[FeatureStore] = ()
) -> Path:
    """Make a store of the features of `sources`, going on where an earlier attempt stopped.

    Args:
        folder: of the `StoreWriter`.
        sources: the images, in the order of the store.
        job: how they are extracted.
        spec: the engine; see `pipeline.engine`.
        reuse: stores made by the same job, whose items are copied where the keys agree.

    Returns:
        The path of the store.
    """
    items = [source.item(job.settings) for source in sources]
    writer = StoreWriter(folder, items, job.settings.blocks, job.attributes, job.encoding)
    if spec == "none" or not writer.missing():
        extract(sources, job.settings, writer, job.load, lambda prompt: load_text(job.texts, prompt), reuse)
    else:
        with engine(spec, gpus=job.device == "cuda") as workers:
            extract_on(workers, sources, job, writer, reuse)
    return writer.finish()


def extract_on(
    workers: Engine, sources: Sequence[Source], job: Job, writer: StoreWriter, reuse: Iterable[FeatureStore] = ()
) -> None:
    """As `extract`, by the workers of a cluster: each loads the model once, each item has its file."""
    _copy(writer, reuse)
    missing, job = writer.missing(), job.absolute()
    loose = replace(writer.loose, folder=writer.loose.folder.resolve())
    tasks = [(sources[i].id, (job, loose, i, replace(sources[i], path=sources[i].path.resolve()))) for i in missing]
    with tqdm(desc="features", total=len(sources), initial=len(sources) - len(missing), unit="image") as bar:
        for index in workers.map(_extract_item, tasks):
            writer.accept(index)
            bar.update()


_ONE_AT_A_TIME = threading.Lock()  # of a worker's threads: the others read and write meanwhile


def _extract_item(job: Job, loose: Loose, index: int, source: Source) -> int:
    """Extract one image in a worker, unless a worker that died had finished it; returns `index`."""
    if not loose.holds(index):
        pixels, text = _read(source, job.settings), _text(job.texts, source.prompt)
        with _ONE_AT_A_TIME:
            features = _loaded(job).features(pixels, text, source.sha256)
        loose.write(index, source.id, features)
    return index


_loaded = functools.lru_cache(maxsize=1)(Job.load)
_text = functools.lru_cache(maxsize=4)(load_text)
