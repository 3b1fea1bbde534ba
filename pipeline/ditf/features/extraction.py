"""Features of images: the backbone once per noise sample, means kept. Extraction resumes where it stopped."""

import contextlib
import functools
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ditf.backbones import Backbone, LoadedBackbone, Text
from ditf.device import choose
from ditf.errors import UserError
from ditf.features.descriptors import ChannelStatistics
from ditf.features.store import VERSION, Encoding, FeatureStore, ImageFeatures
from ditf.features.text import load_text
from ditf.features.writing import BlockFeatures, Item, StoreWriter, encode, lay_out
from ditf.files import Hashes, remove_partials, write_whole
from ditf.images import Rule, decode, model_size, read_rgb, resize_for_model
from ditf.models import Model, pin
from ditf.settings import parse
from ditf.workers import run
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

if TYPE_CHECKING:
    from distributed import Client

LIBRARIES = ("torch", "diffusers", "transformers")
THREADS = 3  # of a process without workers: one computes, one reads, one writes
Encoded = Mapping[str, NDArray[Any]]
Shape = tuple[int, int, bool]  # of a model: stride, channels, whether there is AdaLN


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """The installed versions of libraries that decide results."""
    return {name: version(name) for name in libraries}


def key_of(sha256: str, prompt: str) -> str:
    """What an item's features depend on besides the store's attributes: the image's bytes and its prompt."""
    return hashlib.sha256(f"{sha256}\n{prompt}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Source:
    """An image to extract from. sha256: of its bytes; width, height: of the file, in pixels."""

    id: str
    path: Path
    sha256: str
    width: int
    height: int
    prompt: str


@dataclass(frozen=True)
class Job:
    """All that features depend on besides the images, and how the model is run; it can be sent to a worker.

    rule, img_size: how images are resized; see `ditf.images.model_size`. stride: pixels per token. seed: of the noise.
    encoding: of the store. texts: folder of the encoded prompts. dtype, text_dtype: of the arithmetic, such as
    "float32". device: "auto" is resolved where the work runs. batch_size: noise samples per forward pass; with
    another, features differ by rounding at most.
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

    @property
    def made_by(self) -> dict[str, Any]:
        """All that determines an image's features besides the image: what a store is known by."""
        names = ("rule", "img_size", "seed", "encoding", "dtype", "text_dtype")
        settings = self.backbone.model_dump() | {"blocks": sorted(self.backbone.blocks)}
        own = {name: getattr(self, name) for name in names}
        return {"format": VERSION, "model": self.model.made_by, **settings, **own, **versions_of(LIBRARIES)}

    @property
    def attributes(self) -> dict[str, Any]:
        """Of a store: what made it, where the model lay, and what a reader needs."""
        own = {"blocks": sorted(self.backbone.blocks), "encoding": self.encoding}
        return {"made_by": self.made_by, "source": self.model.source, **own}

    def load(self) -> "Extractor":
        """The model, loaded."""
        device, dtype = choose(self.device, self.dtype)
        return Extractor(self.backbone.load(self.model, dtype, device), self.backbone, self.seed, self.batch_size)

    def item(self, source: Source, stride: int) -> Item:
        """An image's place in the store."""
        width, height = model_size(self.rule, self.img_size, source.width, source.height, stride)
        key = key_of(source.sha256, source.prompt)
        return Item(source.id, key, (height // stride, width // stride), (source.width, source.height), source.prompt)


class Extractor:
    """A loaded model with its settings, which gives the features of images.

    Args:
        loaded: the model.
        backbone: its settings.
        seed: of the noise.
        batch_size: noise samples per forward pass.
    """

    def __init__(self, loaded: LoadedBackbone, backbone: Backbone, seed: int = 0, batch_size: int = 8) -> None:
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
            source: a Hub id, a local folder, or "tiny:SEED" for a tiny random model.
            type: the family, such as "flux", or "package.module:Class". revision: on the Hub.
            block: the block whose input is the feature.
            img_size, rule: how images are resized; see `ditf.images.model_size`.
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
        tokens, modulation = found[self.backbone.blocks[0]]
        grid = (resized.shape[0] // self.loaded.stride, resized.shape[1] // self.loaded.stride)
        size = (pixels.shape[1], pixels.shape[0])
        return ImageFeatures(tokens, modulation, grid, size, ChannelStatistics.of([tokens]).massive)

    def features(self, pixels: NDArray[np.uint8], text: Text, sha256: str) -> dict[int, BlockFeatures]:
        """Ensembled features of one image for each block: tokens [n, C] and modulation [3, C] or None, float32.

        Args:
            pixels: RGB, resized for the model, [height, width, 3].
            text: its encoded prompt.
            sha256: of the image; the noise is seeded from it, whatever the order and batch size.
        """
        total: dict[int, Tensor] = {}
        count = self.backbone.ensemble_size
        with torch.inference_mode():
            encoded = self.loaded.encode(torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1)
            for start in range(0, count, self._batch_size):
                samples = range(start, min(start + self._batch_size, count))
                noise = [noise_generator(self._seed, sha256, sample) for sample in samples]
                for block, tokens in self.loaded.capture(encoded, text, noise).items():
                    part = tokens.float().sum(0)
                    total[block] = total[block] + part if block in total else part
            modulation = self.loaded.modulation(text)
        return {
            block: (
                (tokens / count).cpu().numpy(),
                modulation[block].float().cpu().numpy() if block in modulation else None,
            )
            for block, tokens in total.items()
        }


def noise_generator(seed: int, sha256: str, sample: int) -> torch.Generator:
    """The generator of one noise sample of one image, on the CPU."""
    digest = hashlib.sha256(f"{seed} {sha256} {sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Extraction:
    """What `extract` did. path: of the store. computed: images that went through the model."""

    path: Path
    computed: int


def extract(
    folder: Path,
    sources: Sequence[Source],
    job: Job,
    client: "Client | None" = None,
    reuse: Iterable[Path] = (),
    only: Iterable[str] | None = None,
    shard: int | None = None,
) -> Extraction:
    """Make a store of the features of `sources`, going on where an earlier attempt stopped.

    Args:
        folder: to work in; the store is `<folder>/store.zarr`, and `<folder>/complete` says that it is finished.
        sources: the images, in the order of the store.
        job: how they are extracted.
        client: of the workers that do it; None for this process.
        reuse: stores made by the same job, finished or not, whose items are copied where their keys agree. What cannot
            be read of them is computed.
        only: ids; tasks with none of these are left out, and the store is not finished.
        shard: items in a file; chosen by their number unless given.
    """
    path, mark = folder / "store.zarr", folder / "laid-out"
    if mark.exists() and _readable(path) is None:
        print(f"{folder}: damaged; it is begun again")
        shutil.rmtree(folder)
    if (folder / "complete").exists():
        return Extraction(path, 0)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    job = _absolute(job)
    donors = [store for store in map(_readable, reuse) if store and store.attributes["made_by"] == job.made_by]
    if not mark.exists():
        lay_out_for(path, sources, job, _shape(job, client, donors), shard)
        write_whole(mark, b"")
    writer = StoreWriter(path)
    wanted = set(only) if only is not None else {source.id for source in sources}
    tasks = [task for task in writer.tasks() if any(sources[i].id in wanted for i in task) and not writer.holds(task)]
    names = {sources[task[0]].id: task for task in tasks}
    work = (
        (name, (path.resolve(), job, task, [replace(sources[i], path=sources[i].path.resolve()) for i in task], donors))
        for name, task in names.items()
    )
    computed, done = 0, len(sources) - sum(map(len, tasks))
    with tqdm(desc="features", total=len(sources), initial=done, unit="image") as bar:
        for name, count in run(client, _extract_task, work, THREADS):
            computed += count
            bar.update(len(names[name]))
    _loaded.clear()
    if only is None:
        writer.finish()
        write_whole(folder / "complete", b"")
    return Extraction(path, computed)


def lay_out_for(
    path: Path,
    sources: Sequence[Source],
    job: Job,
    shape: Shape | None = None,
    shard: int | None = None,
) -> None:
    """Make the store of a job that lacks its features. shape: the model's, unless given."""
    stride, channels, adaln = shape or _shape_of_model(job)
    items = [job.item(source, stride) for source in sources]
    lay_out(path, items, {**job.attributes, "stride": stride, "adaln": adaln}, channels, shard)


_one_at_a_time = threading.Lock()  # of a process's threads at its model
_loaded: dict[str, Extractor] = {}


def _extract_task(path: Path, job: Job, task: range, sources: list[Source], donors: list[FeatureStore]) -> int:
    """Write one task, unless a worker that died had finished it; returns how many images went through the model."""
    writer = StoreWriter(path)
    if writer.holds(task):
        return 0
    encoded, modulations, computed = [], [], 0
    for source in sources:
        found = _copied(source, job, donors)
        if found is None:
            computed += 1
            found = _computed(source, job)
        encoded.append({block: arrays for block, (arrays, _) in found.items()})
        modulations.append({block: modulation for block, (_, modulation) in found.items()})
    writer.write(task, encoded, modulations)
    return computed


def _computed(source: Source, job: Job) -> dict[int, tuple[Encoded, NDArray[np.float32] | None]]:
    """The encoded features of an image, by block, from the model."""
    pixels, text = read_rgb(source.path, source.sha256), load_text(job.texts, source.prompt)
    with _one_at_a_time:
        name = repr(job)
        if name not in _loaded:
            _loaded.clear()
            _loaded[name] = job.load()
        extractor = _loaded[name]
        resized = resize_for_model(pixels, job.rule, job.img_size, extractor.loaded.stride)
        features = extractor.features(resized, text, source.sha256)
    return {b: (encode(tokens, job.encoding, source.id, b), modulation) for b, (tokens, modulation) in features.items()}


def _copied(
    source: Source, job: Job, donors: list[FeatureStore]
) -> dict[int, tuple[Encoded, NDArray[np.float32] | None]] | None:
    """The encoded features of an image, by block, from the first donor that holds them whole."""
    key = key_of(source.sha256, source.prompt)
    for store in donors:
        item = store.by_key.get(key)
        if item is not None:
            with contextlib.suppress(UserError):
                return {b: (store.stored(b, item), store.modulation(b, item)) for b in job.backbone.blocks}
    return None


def _readable(path: Path) -> FeatureStore | None:
    try:
        return FeatureStore(path)
    except UserError:
        return None


def _shape(job: Job, client: "Client | None", donors: list[FeatureStore]) -> Shape:
    """Stride, channels and whether there is AdaLN: as a donor has them, or of the model."""
    if donors:
        attributes = donors[0].attributes
        return attributes["stride"], attributes["channels"], attributes["adaln"]
    [(_, found)] = run(client, _shape_of_model, [(job.model.source, (job,))])
    return found


def _shape_of_model(job: Job) -> Shape:
    with _one_at_a_time:
        extractor = _loaded.setdefault(repr(job), job.load())
    return extractor.loaded.stride, extractor.loaded.channels, extractor.loaded.adaln


def _absolute(job: Job) -> Job:
    """The same, for a process in another folder."""
    source = Path(job.model.source)
    model = replace(job.model, source=str(source.resolve())) if source.is_dir() else job.model
    return replace(job, model=model, texts=job.texts.resolve())


def resolve_dtype(dtype: str, device: str, client: "Client | None" = None) -> str:
    """The dtype, such as "float32", that `dtype` and `device` mean where the work runs."""
    [(_, found)] = run(client, _dtype_here, [("dtype", (dtype, device))])
    return found


def _dtype_here(dtype: str, device: str) -> str:
    return str(choose(device, dtype)[1]).removeprefix("torch.")
