"""Extraction of a store: every image of a data set through the model, once. It resumes where it stopped."""

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ditf.backbones.base import Text
from ditf.data.images import read_rgb, resize_for_model
from ditf.errors import UserError
from ditf.features.extractor import SHAPE, ExtractionJob, Extractor, ImageSource, key_of
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreWriter, encode, lay_out
from ditf.features.text import load_text
from ditf.files import remove_partials, write_atomically
from ditf.workers import run

if TYPE_CHECKING:
    from distributed import Client

LOOKAHEAD = 2  # tasks read, or written, ahead of or behind the model
# Of an image, by block: the arrays in which a store keeps its tokens, and its modulation.
BlocksEncoded = dict[int, tuple[Mapping[str, NDArray[Any]], NDArray[np.float32] | None]]
Encoded = list[BlocksEncoded]  # of an image, for each ensemble size that is stored
Paths = list[Path]  # of the stores, one for each ensemble size
Shape = Mapping[str, Any]  # what a store's attributes say of its model
Inputs = Encoded | tuple[ImageSource, NDArray[np.uint8], Text]
Task = tuple[
    str, tuple[Paths, list[int], ExtractionJob, range, list[ImageSource], list[FeatureStore]]
]  # name, and arguments of _extract_task


@dataclass(frozen=True)
class Extraction:
    """What `extract` did. paths: of the stores, one for each ensemble size. computed: images that went through the
    model."""

    paths: list[Path]
    computed: int

    @property
    def path(self) -> Path:
        """Of the store of the whole ensemble."""
        return self.paths[-1]


def extract(
    folder: Path,
    sources: Sequence[ImageSource],
    job: ExtractionJob,
    client: "Client | None" = None,
    reuse: Iterable[Path] = (),
    only: Iterable[str] | None = None,
    shard: int | None = None,
    smaller_ensembles: Sequence[int] = (),
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
        smaller_ensembles: Sizes of smaller ensembles, each the first noise samples of the largest, from the same
            passes. Each gets its own store.
    """
    sizes = [*sorted(smaller_ensembles), job.backbone.ensemble_size]
    paths = [*(folder / f"ensemble{size}.zarr" for size in sizes[:-1]), folder / "store.zarr"]
    laid_out, complete = folder / "laid-out", folder / "complete"
    if laid_out.exists() and not all(map(_readable, paths)):
        print(f"{folder}: damaged; it is started anew")
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
        for mark in (laid_out, complete):
            mark.unlink(missing_ok=True)
    if complete.exists():
        return Extraction(paths, 0)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    job = _absolute(job)
    reusable_stores = [
        store
        for store in map(_readable, reuse)
        if store and store.attributes["extraction_config"] == job.extraction_config
    ]
    if not laid_out.exists():
        shape = _shape(job, client, reusable_stores, len(sources))
        for path, size in zip(paths, sizes, strict=True):
            backbone = job.backbone.model_copy(update={"ensemble_size": size})
            lay_out_for(path, sources, replace(job, backbone=backbone), shape, shard)
        write_atomically(laid_out, b"")
    writers = [StoreWriter(path) for path in paths]
    tasks = _unfinished(writers, [source.id for source in sources], only)
    absolute = [path.resolve() for path in paths]
    work = (
        (name, (absolute, sizes, job, task, [_absolute_source(sources[i]) for i in task], reusable_stores))
        for name, task in tasks.items()
    )
    computed, done = 0, len(sources) - sum(map(len, tasks.values()))
    with tqdm(desc="features", total=len(sources), initial=done, unit="image") as bar:
        for name, count in run(client, _extract_task, work) if client else _in_process(work):
            computed += count
            bar.update(len(tasks[name]))
    _loaded.clear()
    if only is None:
        for writer in writers:
            writer.finish()
        write_atomically(complete, b"")
    return Extraction(paths, computed)


def _unfinished(writers: Sequence[StoreWriter], ids: Sequence[str], only: Iterable[str] | None) -> dict[str, range]:
    """The tasks that some store lacks, by their first image; only those with images that are asked for."""
    chosen = set(ids if only is None else only)
    return {
        ids[task[0]]: task
        for task in writers[0].tasks()
        if any(ids[item] in chosen for item in task) and not all(writer.holds(task) for writer in writers)
    }


def lay_out_for(
    path: Path,
    sources: Sequence[ImageSource],
    job: ExtractionJob,
    shape: Shape | None = None,
    shard: int | None = None,
) -> None:
    """Make the store of a job that lacks its features. shape: the model's, unless given."""
    shape = shape or _shape_of_model(job)
    items = [job.item(source, shape["multiple"], shape["strides"][0]) for source in sources]
    lay_out(path, items, {**job.attributes, **shape}, shard)


def _in_process(work: Iterable[Task]) -> Iterator[tuple[str, int]]:
    """Extract tasks in this process: its main thread computes, others read and write meanwhile."""
    with ThreadPoolExecutor(2) as pool:
        reading: deque[tuple[Task, Future[list[Inputs]]]] = deque()
        writing: deque[tuple[str, int, Future[None]]] = deque()

        def compute() -> None:
            (name, (paths, sizes, job, task, _, _)), inputs = reading.popleft()
            found, computed = _features_of(inputs.result(), job, sizes)
            writing.append((name, computed, pool.submit(_write, paths, task, found)))

        def written() -> tuple[str, int]:
            name, computed, done = writing.popleft()
            done.result()
            return name, computed

        try:
            for name, arguments in work:
                reading.append(((name, arguments), pool.submit(_read, *arguments[2:])))
                if len(reading) > LOOKAHEAD:
                    compute()
                if len(writing) > LOOKAHEAD:
                    yield written()
            while reading:
                compute()
            while writing:
                yield written()
        finally:
            for _, inputs in reading:
                inputs.cancel()


_one_at_a_time = threading.Lock()  # of a worker's threads at its model
_loaded: dict[str, Extractor] = {}


def _extract_task(
    paths: Paths,
    sizes: list[int],
    job: ExtractionJob,
    task: range,
    sources: list[ImageSource],
    reusable_stores: list[FeatureStore],
) -> int:
    """Extract one task in a worker, unless one that died had finished it; returns how many images were computed."""
    if all(StoreWriter(path).holds(task) for path in paths):
        return 0
    inputs = _read(job, task, sources, reusable_stores)
    with _one_at_a_time:
        found, computed = _features_of(inputs, job, sizes)
    _write(paths, task, found)
    return computed


def _read(
    job: ExtractionJob, task: range, sources: list[ImageSource], reusable_stores: list[FeatureStore]
) -> list[Inputs]:
    """What each image of a task needs: its features as the first donor that holds them whole keeps them, or else the
    image and its encoded prompt."""
    inputs: list[Inputs] = []
    for source in sources:
        copied = _copied(source, job, reusable_stores)
        inputs.append(
            [copied] if copied else (source, read_rgb(source.path, source.sha256), load_text(job.texts, source.prompt))
        )
    return inputs


def _copied(source: ImageSource, job: ExtractionJob, reusable_stores: list[FeatureStore]) -> BlocksEncoded | None:
    key = key_of(source.pixels_sha256, source.prompt)
    for store in reusable_stores:
        item = store.by_key.get(key)
        if item is not None:
            with contextlib.suppress(UserError):
                return {b: (store.stored(b, item), store.modulation(b, item)) for b in job.backbone.blocks}
    return None


def _features_of(inputs: list[Inputs], job: ExtractionJob, sizes: list[int]) -> tuple[list[Encoded], int]:
    """The encoded features of a task's images, and how many of them went through the model."""
    found, computed = [], 0
    for given in inputs:
        if isinstance(given, list):
            found.append(given)
            continue
        (source, pixels, text), computed = given, computed + 1
        extractor = _extractor(job)
        resized = resize_for_model(pixels, job.rule, job.img_size, extractor.loaded.stride)
        ensembles = extractor.ensembles(resized, text, source.pixels_sha256, sizes)
        found.append(
            [
                {b: (encode(x, job.encoding, source.id, b), adaln) for b, (x, adaln) in ensembles[size].items()}
                for size in sizes
            ]
        )
    return found, computed


def _extractor(job: ExtractionJob) -> Extractor:
    """The model of a job, which a process loads once."""
    name = repr(job)
    if name not in _loaded:
        _loaded.clear()
        _loaded[name] = job.load()
    return _loaded[name]


def _write(paths: Paths, task: range, found: list[Encoded]) -> None:
    for path, items in zip(paths, zip(*found, strict=True), strict=True):
        encoded = [{block: arrays for block, (arrays, _) in item.items()} for item in items]
        StoreWriter(path).write(task, encoded, [{block: adaln for block, (_, adaln) in item.items()} for item in items])


def _readable(path: Path) -> FeatureStore | None:
    try:
        return FeatureStore(path)
    except UserError:
        return None


def _shape(job: ExtractionJob, client: "Client | None", reusable_stores: list[FeatureStore], images: int) -> Shape:
    """As a donor has it, or of the model, which all workers load meanwhile."""
    if reusable_stores:
        return {name: reusable_stores[0].attributes[name] for name in SHAPE}
    count = max(1, min(len(client.nthreads()), images)) if client else 1
    tasks = [(f"{job.model.source} ({n} of {count})", (job,)) for n in range(1, count + 1)]
    with contextlib.closing(run(client, _shape_of_model, tasks)) as shapes:
        return next(shapes)[1]


def _shape_of_model(job: ExtractionJob) -> Shape:
    with _one_at_a_time:
        return _extractor(job).shape


def _absolute(job: ExtractionJob) -> ExtractionJob:
    """The same, for a process in another folder."""
    source = Path(job.model.source)
    model = replace(job.model, source=str(source.resolve())) if source.is_dir() else job.model
    return replace(job, model=model, texts=job.texts.resolve())


def _absolute_source(source: ImageSource) -> ImageSource:
    return replace(source, path=source.path.resolve())
