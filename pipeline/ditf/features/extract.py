"""Extract the features of a data set into a store. An interrupted extraction continues where it stopped."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ditf.data.images import read_rgb, resize_for_model
from ditf.errors import UserError
from ditf.features.extractor import SHAPE, Extractor
from ditf.features.job import ExtractionJob, ImageSource, key_of
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreWriter, encode, lay_out
from ditf.features.text import load_text
from ditf.files import publish, remove_partials, write_atomically
from ditf.workers import run

if TYPE_CHECKING:
    from distributed import Client

THREADS = 3  # without workers: while one thread runs the model, the others read and write
STORE, LAID_OUT, COMPLETE = "store.zarr", "laid-out", "complete"  # names in the folder of an extraction

# Encoded features of an image by block: the arrays that contain its tokens, and its modulation.
EncodedBlocks = dict[int, tuple[Mapping[str, NDArray[Any]], NDArray[np.float32] | None]]
StoreShape = Mapping[str, Any]  # attributes of a store that describe its model


@dataclass(frozen=True)
class Extraction:
    """Result of `extract`.

    Attributes:
        paths: One store for each ensemble size, in ascending order.
        computed: Number of images for which the model ran.
    """

    paths: list[Path]
    computed: int

    @property
    def path(self) -> Path:
        """Store of the complete ensemble."""
        return self.paths[-1]


@dataclass(frozen=True)
class ExtractionTask:
    """A group of images that one worker extracts.

    Attributes:
        job: How features are extracted.
        paths: The stores, one for each ensemble size.
        sizes: The ensemble sizes, in ascending order.
        items: Positions of the images in the stores.
        sources: The images.
        reusable: Earlier stores. Items with the same key are copied from them.
        report: Called after each pass of the model with the number of finished noise samples of the image.
    """

    job: ExtractionJob
    paths: list[Path]
    sizes: list[int]
    items: range
    sources: list[ImageSource]
    reusable: list[FeatureStore]
    report: Callable[[int], object]


def extract(
    folder: Path,
    sources: Sequence[ImageSource],
    job: ExtractionJob,
    client: "Client | None" = None,
    reuse: Iterable[Path] = (),
    smaller_ensembles: Sequence[int] = (),
    report: Callable[[int], object] = lambda samples: None,
) -> Extraction:
    """Extract the features of images into a store, or complete an interrupted store.

    Args:
        folder: Working folder. The store is `<folder>/store.zarr`. The file `<folder>/complete` marks it as finished.
        sources: The images, in the order of the store.
        job: How features are extracted.
        client: Client of the workers, or None to extract in this process.
        reuse: Earlier stores, finished or not. Items of stores with the same settings are copied. Items that cannot be
            read are computed again.
        smaller_ensembles: Sizes of smaller ensembles. Each uses the first noise samples of the largest ensemble, and is
            written to its own store.
        report: Called after each pass of the model with the number of finished noise samples of the image, in the
            process that runs the model.

    Returns:
        The stores, and the number of images for which the model ran.

    Raises:
        UserError: An image, a prompt or the model cannot be read. Finished items are kept.
    """
    sizes = [*sorted(smaller_ensembles), job.backbone.ensemble_size]
    paths = [*(folder / f"ensemble{size}.zarr" for size in sizes[:-1]), folder / STORE]
    if (folder / LAID_OUT).exists() and not all(map(_open, paths)):
        print(f"{folder}: damaged; extraction starts again")
        shutil.rmtree(folder)
    if (folder / COMPLETE).exists():
        return Extraction(paths, 0)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    job = _with_absolute_paths(job)
    reusable = [store for store in map(_open, reuse) if store and _made_by(store, job)]
    if not (folder / LAID_OUT).exists():
        shape = _find_shape(job, client, reusable, len(sources))
        for path, size in zip(paths, sizes, strict=True):
            backbone = job.backbone.model_copy(update={"ensemble_size": size})
            lay_out_for(path, sources, replace(job, backbone=backbone), shape)
        write_atomically(folder / LAID_OUT, b"")
    writers = [StoreWriter(path) for path in paths]
    unfinished = {tuple(items): items for writer in writers for items in writer.unfinished()}
    absolute = [path.resolve() for path in paths]
    tasks = {
        sources[items[0]].id: ExtractionTask(
            job,
            absolute,
            sizes,
            items,
            [replace(sources[i], path=sources[i].path.resolve()) for i in items],
            reusable,
            report,
        )
        for items in unfinished.values()
    }
    computed, done = 0, len(sources) - sum(len(task.items) for task in tasks.values())
    with tqdm(desc="features", total=len(sources), initial=done, unit="image") as bar:
        work = ((name, (task,)) for name, task in tasks.items())
        for name, count in run(client, _extract_task, work, THREADS):
            computed += count
            bar.update(len(tasks[name].items))
    _loaded.clear()
    for writer in writers:
        writer.finish()
    write_atomically(folder / COMPLETE, b"")
    return Extraction(paths, computed)


def resume_store(folder: Path, store: Path) -> None:
    """Prepare an extraction that computes the missing chunks of a store.

    Args:
        folder: Working folder of `extract`. Its content is removed.
        store: The incomplete store. Its files are linked into the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    publish(store, folder / STORE)
    write_atomically(folder / LAID_OUT, b"")


def lay_out_for(
    path: Path, sources: Sequence[ImageSource], job: ExtractionJob, shape: StoreShape | None = None
) -> None:
    """Write the metadata and tables of a store, without features.

    Args:
        path: The store.
        sources: The images, in the order of the store.
        job: How features are extracted.
        shape: Attributes that describe the model. By default, the model is loaded to find them.
    """
    shape = shape or _shape_of_model(job)
    items = [job.item(source, shape["multiple"], shape["strides"][0]) for source in sources]
    lay_out(path, items, {**job.attributes, **shape})


_one_at_a_time = threading.Lock()  # only one thread of a process may run the model
_loaded: dict[str, Extractor] = {}


def _extract_task(task: ExtractionTask) -> int:
    """Extract the images of a task. A task that another worker finished before it died is skipped.

    Returns:
        Number of images for which the model ran.
    """
    if all(StoreWriter(path).holds(task.items) for path in task.paths):
        return 0
    computed = 0
    encoded: list[list[EncodedBlocks]] = []  # for each image and ensemble size
    for source in task.sources:
        copied = _copy(source, task)
        if copied is None:
            computed += 1
        encoded.append([copied] if copied else _compute(source, task))
    for path, items in zip(task.paths, zip(*encoded, strict=True), strict=True):
        arrays = [{block: tokens for block, (tokens, _) in item.items()} for item in items]
        modulations = [{block: modulation for block, (_, modulation) in item.items()} for item in items]
        StoreWriter(path).write(task.items, arrays, modulations)
    return computed


def _copy(source: ImageSource, task: ExtractionTask) -> EncodedBlocks | None:
    """Read the encoded features of an image from the first reusable store that contains them undamaged."""
    key = key_of(source.pixels_sha256, source.prompt)
    for store in task.reusable:
        item = store.by_key.get(key)
        if item is not None:
            with contextlib.suppress(UserError):
                return {b: (store.stored(b, item), store.modulation(b, item)) for b in task.job.backbone.blocks}
    return None


def _compute(source: ImageSource, task: ExtractionTask) -> list[EncodedBlocks]:
    """Run the model on an image, and encode its features for each ensemble size."""
    job = task.job
    pixels, text = read_rgb(source.path, source.sha256), load_text(job.texts, source.prompt)
    with _one_at_a_time:
        extractor = _load(job)
        resized = resize_for_model(pixels, job.rule, job.img_size, extractor.loaded.stride)
        ensembles = extractor.ensembles(resized, text, source.pixels_sha256, task.sizes, task.report)
    return [
        {
            block: (encode(tokens, job.encoding, source.id, block), modulation)
            for block, (tokens, modulation) in ensembles[size].items()
        }
        for size in task.sizes
    ]


def _load(job: ExtractionJob) -> Extractor:
    """Return the model of a job, which a process loads once."""
    name = repr(job)
    if name not in _loaded:
        _loaded.clear()
        _loaded[name] = job.load()
    return _loaded[name]


def _open(path: Path) -> FeatureStore | None:
    """Open a store. Return None if it is missing or damaged."""
    try:
        return FeatureStore(path)
    except UserError:
        return None


def _made_by(store: FeatureStore, job: ExtractionJob) -> bool:
    """Return whether a store was extracted with the settings of a job."""
    return bool(store.attributes["extraction_config"] == job.extraction_config)


def _find_shape(
    job: ExtractionJob, client: "Client | None", reusable: Sequence[FeatureStore], images: int
) -> StoreShape:
    """Return the attributes that describe the model, from a reusable store or from the model itself.

    Meanwhile, every worker loads the model.
    """
    if reusable:
        return {name: reusable[0].attributes[name] for name in SHAPE}
    count = max(1, min(len(client.nthreads()), images)) if client else 1
    tasks = [(f"{job.model.source} ({number} of {count})", (job,)) for number in range(1, count + 1)]
    with contextlib.closing(run(client, _shape_of_model, tasks)) as shapes:
        return next(shapes)[1]


def _shape_of_model(job: ExtractionJob) -> StoreShape:
    """Load the model of a job, and return the attributes that describe it."""
    with _one_at_a_time:
        return _load(job).shape


def _with_absolute_paths(job: ExtractionJob) -> ExtractionJob:
    """Return the job with absolute paths, so that a process in another folder can run it."""
    source = Path(job.model.source)
    model = replace(job.model, source=str(source.resolve())) if source.is_dir() else job.model
    return replace(job, model=model, texts=job.texts.resolve())
