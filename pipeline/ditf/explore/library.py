"""Read what the explorer shows from the cache of a project. Answers are plain data that the server only sends."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ditf.config.params import Params
from ditf.data.catalog import Catalog
from ditf.data.images import RGB, read_rgb, shrink
from ditf.drawing.features import feature_colours
from ditf.errors import NotFoundError, UserError
from ditf.explore.jobs import JobQueue
from ditf.explore.pairs import PairSelection, read_pairs
from ditf.explore.recent import RecentlyUsed
from ditf.explore.uploads import MOST_BYTES, MOST_PIXELS, Upload, Uploads
from ditf.features.descriptors import ROWS, ChannelStatistics
from ditf.features.fusion import FusedStore, open_store
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.features.store import FeatureStore
from ditf.files import bytes_in
from ditf.matching.images import match, similarity
from ditf.project.entries import check_entry, image_reader
from ditf.project.paths import CATALOGS, FEATURES, RESULTS
from ditf.project.search import find_similar
from ditf.project.videos import VideoResults
from ditf.retrieval.search import FeatureIndex
from ditf.tasks.base import Task
from ditf.tasks.correspondence import Correspondence
from ditf.tasks.retrieval import Retrieval
from ditf.types import BOTH, MODULATED, ORIGINAL, Descriptor

T = TypeVar("T", bound=Task)
Json = dict[str, Any]
LARGEST_CHANNELS = 8
ROW = 1000  # bytes of a small dictionary, roughly


class StaleError(UserError):
    """The features changed since the page read them."""


@dataclass(frozen=True)
class View:
    """Features that the page shows.

    Attributes:
        entry: An entry of `features` or `fusions`.
        block: Block of the model.
        descriptor: Descriptor of the tokens.
    """

    entry: str
    block: int
    descriptor: Descriptor


class Explorer:
    """The features and results of a project, as the explorer shows them.

    Args:
        params: Parameters of the project, whose folder is the current one.
        memory: Largest total size in bytes of the features that are kept in memory.

    Attributes:
        params: Parameters of the project.
        jobs: Uploads and propagations in progress.
    """

    def __init__(self, params: Params, memory: int = 512 << 20) -> None:
        self.params, self.jobs, self._uploads = params, JobQueue(), Uploads()
        self._recent = RecentlyUsed(memory)
        self._stores: dict[str, tuple[Any, FeatureReader]] = {}
        self._entries: dict[str, Json] = {}

    def project(self) -> Json:
        """Describe the entries of `features` and `fusions`, and the tasks. Entries without features say what to run."""
        entries = [self._describe_entry(name) for name in (*self.params.features, *self.params.fusions)]
        tasks = [self._describe_task(name) for name in self.params.tasks]
        limits = {"upload_bytes": MOST_BYTES, "upload_pixels": MOST_PIXELS}
        return {"name": Path.cwd().name, "entries": entries, "tasks": tasks, "limits": limits}

    def images(self, entry: str, text: str = "", category: str = "") -> Json:
        """List the images of an entry whose id contains a text. Uploaded images come first.

        Args:
            entry: An entry of `features` or `fusions`.
            text: Part of the id, in upper or lower case.
            category: Category of the images. An empty text stands for all.

        Returns:
            The images with id, name, size, category, and sequence if they are frames, and all categories of the entry.
        """
        store, catalog = self.store(entry), Catalog(CATALOGS / self._dataset(entry))
        rows = [row for row in catalog.rows("images") if row["id"] in store]
        sequences = {row["id"]: row["sequence"] for row in catalog.rows("frames")} if catalog.has("frames") else {}
        uploads = [
            {"id": id, "category": "", "name": upload.path.name}
            | dict(zip(("width", "height"), upload.store.size(upload.item), strict=True))
            for id, upload in self._uploads.of(entry).items()
        ]
        chosen = [
            {"name": row["id"].rpartition("/")[2], "sequence": sequences.get(row["id"], "")} | row
            for row in (*uploads, *({key: row[key] for key in ("id", "width", "height", "category")} for row in rows))
            if text.lower() in row["id"].lower() and category in ("", row["category"])
        ]
        return {"categories": sorted({row["category"] for row in rows}), "images": chosen}

    def picture(self, entry: str, image: str, side: int) -> bytes:
        """Return an image as JPEG.

        Args:
            entry: An entry of `features` or `fusions`.
            image: Id of the image.
            side: Largest length of its longer side in pixels.
        """
        upload = self._upload(entry, image)
        pixels = shrink(read_rgb(upload.path) if upload else self._reader(self._dataset(entry))(image), side)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        return file.getvalue()

    def tokens(self, view: View, image: str, revision: str = "") -> tuple[bytes, tuple[int, int], tuple[int, int]]:
        """Return the descriptors of an image for a program that computes similarities itself.

        Args:
            view: Features to read.
            image: Id of the image.
            revision: Revision of the features that the program expects. An empty text accepts any.

        Returns:
            Unit descriptors, little-endian float16 [n, C], followed by their lengths before normalization, float32 [n];
            rows and columns of tokens; and width and height of the image in pixels.

        Raises:
            StaleError: The features have another revision by now.
        """
        store = self.store(view.entry)
        if revision and revision != store.digest:
            raise StaleError(f"{store.path}: the features changed. Load the page again.")
        features = self._read(view, image)
        channels, count = self._channels(view), len(features.tokens)
        vectors, lengths = np.empty(features.tokens.shape, "<f2"), np.empty(count, "<f4")
        for start in range(0, count, ROWS):  # in float32, all tokens would take twice the memory of the answer
            rows = slice(start, start + ROWS)
            tokens = features.descriptors(view.descriptor, channels, rows)
            lengths[rows] = np.maximum(np.sqrt(np.vecdot(tokens, tokens)), 1e-12)
            vectors[rows] = tokens / lengths[rows, None]
        return b"".join([vectors.data, lengths.data]), features.grid, features.size

    def similarity(self, view: View, source: str, target: str, point: tuple[int, int]) -> Json:
        """Return the similarity map of a point of one image over another; see `ditf.similarity`."""
        first, second = self._pair(view, source, target)
        maps = similarity(first, second, [point], view.descriptor, self._channels(view))
        return {"grid": list(maps.shape[1:]), "values": [round(value, 5) for value in maps.ravel().tolist()]}

    def match(self, view: View, source: str, target: str, points: Sequence[tuple[int, int]]) -> list[Json]:
        """Match points of one image in another; see `ditf.match`."""
        first, second = self._pair(view, source, target)
        table = match(first, second, points, view.descriptor, self._channels(view))
        return [
            {
                "point": [row["source_x"], row["source_y"]],
                "match": [row["target_x"], row["target_y"]],
                "similarity": row["similarity"],
            }
            for row in table.to_pylist()
        ]

    def pairs(self, task: str, descriptor: str) -> list[Json]:
        """List the pairs of a task of type correspondence with their predictions; see `read_pairs`.

        Args:
            task: An entry of `tasks`.
            descriptor: Descriptor of the predictions.
        """
        settings = self.correspondence(task)
        if descriptor not in settings.predict.descriptors:
            raise UserError(
                f"descriptor: {task} has no predictions for {descriptor!r}. "
                f"Use {', '.join(settings.predict.descriptors)}."
            )
        path = RESULTS / task / "predictions" / "predictions.parquet"
        if not path.is_file():
            raise NotFoundError(f"{path}: not found. Run `dvc repro predict@{task}`.")
        key = ("pairs", task, descriptor, _stamp(path))
        return self._recent.get(
            key,
            lambda: read_pairs(path, settings, descriptor),
            lambda pairs: sum(ROW * (1 + len(pair["points"])) for pair in pairs),
        )

    def select_pairs(self, selection: PairSelection) -> Json:
        """Filter and sort the pairs of a task; see `PairSelection.select`."""
        task, _, descriptor = selection.other.rpartition("/")
        others = self.pairs(task or selection.task, descriptor) if selection.other else None
        return selection.select(self.pairs(selection.task, selection.descriptor), others)

    def search(
        self, task: str, image: str, place: Sequence[int] = (), k: int = 12, all_hits: bool = False, category: str = ""
    ) -> list[Json]:
        """Find places or images that are similar; see `ditf.project.search.find_similar`.

        Args:
            task: An entry of `tasks` of type retrieval.
            image: Id of the query image.
            place: Point (x, y) or region (x0, y0, x1, y1) of the image in pixels. By default the entire image.
            k: Number of hits.
            all_hits: Whether to include hits in the query image, and several hits per image.
            category: Category of the hits. An empty text stands for all.

        Returns:
            Hits with image, point, box, token and similarity, best first.
        """
        retrieval = self._task(task, Retrieval)
        index = self._index(task)
        settings = index.settings
        features = self._read(View(retrieval.features, settings.block, settings.descriptor), image)
        width, height = features.size
        x0, y0, x1, y1 = place if len(place) == 4 else (*place, *(p + 1 for p in place)) if place else (0, 0, 1, 1)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(f"{image}: {list(place)} is outside the image of {width}x{height} pixels.")
        allowed = None
        if category:
            rows = Catalog(CATALOGS / retrieval.dataset).rows("images")
            allowed = {row["id"] for row in rows if row["category"] == category}
        count = k if allowed is None else len(index.store)
        exclude = image if image in index.store and not all_hits else None
        hits = find_similar(index, features, place, count, all_hits, exclude)
        return [hit for hit in hits if allowed is None or hit["image"] in allowed][:k]

    def channels(self, view: View, image: str) -> list[Json]:
        """List the largest channels of an image, before AdaLN.

        Returns:
            Channel, mean magnitude, its ratio to the median channel, and whether the channel is massive, the largest
            magnitude first.
        """
        features = self._read(view, image)
        statistics = ChannelStatistics.of([features.tokens])
        massive = set(self.store(view.entry).massive(view.block))
        order = np.argsort(-statistics.magnitude)[:LARGEST_CHANNELS]
        return [
            {
                "channel": int(channel),
                "magnitude": float(statistics.magnitude[channel]),
                "ratio": float(statistics.ratio[channel]),
                "massive": int(channel) in massive,
            }
            for channel in order
        ]

    def channel(self, view: View, image: str, channel: int) -> Json:
        """Return one channel of the descriptors of an image as a map."""
        features = self._read(view, image)
        if not 0 <= channel < features.tokens.shape[1]:
            raise UserError(f"channel: {channel} does not exist. Use 0 to {features.tokens.shape[1] - 1}.")
        values = features.descriptors(view.descriptor, self._channels(view))[:, channel]
        return {"grid": list(features.grid), "values": [float(value) for value in values]}

    def colours(self, view: View, image: str) -> bytes:
        """Return the descriptors of an image as colours, a PNG with a pixel per token; see `feature_colours`."""
        features = self._read(view, image)
        descriptors = features.descriptors(view.descriptor, self._channels(view)).reshape(*features.grid, -1)
        file = io.BytesIO()
        Image.fromarray(feature_colours([descriptors])[0]).save(file, "PNG")
        return file.getvalue()

    def videos(self, task: str) -> VideoResults:
        """Return the videos of a task of type propagation."""
        check_entry(self.params.tasks, task, "tasks")
        catalog = CATALOGS / self.params.tasks[task].dataset
        key = ("videos", task, _stamp(catalog))
        return self._recent.get(key, lambda: VideoResults(self.params, task), lambda videos: bytes_in(catalog))

    def video(self, task: str, sequence: str, descriptor: str) -> Json:
        """Describe a sequence and the scores of its frames; see `VideoResults.frames`."""
        videos = self.videos(task)
        described = videos.sequence(sequence, descriptor)
        key = ("video", task, sequence, descriptor, _stamp(RESULTS / task / "predictions"))
        frames = self._recent.get(key, lambda: videos.frames(sequence, descriptor), lambda rows: ROW * len(rows))
        return described | {"frames": frames}

    def add_upload(self, entry: str, id: str, path: Path, store: Path, item: str) -> str:
        """Add an uploaded image, whose id other methods accept with the same entry.

        Args:
            entry: The entry of `features` whose settings were used.
            id: Id of the image.
            path: The file.
            store: Store of its features.
            item: Id of the image in the store.

        Returns:
            The id.
        """
        self._uploads.add(entry, id, Upload(path, FeatureStore(store), item))
        return id

    def close(self) -> None:
        """Stop all jobs, and remove uploaded files."""
        self.jobs.close()

    def store(self, entry: str) -> FeatureReader:
        """Open the features of an entry. A store that was rebuilt is opened again."""
        check_entry([*self.params.features, *self.params.fusions], entry, "features")
        path = FEATURES / entry
        if not path.is_dir():
            raise UserError(f"{path}: no features yet. Run `dvc repro features@{entry}`.")
        stamp = _stamp(path)
        if self._stores.get(entry, (None, None))[0] != stamp:
            self._stores[entry] = (stamp, open_store(path))
        return self._stores[entry][1]

    def _index(self, task: str) -> FeatureIndex:
        """Open the index of a task. An index that was rebuilt is opened again."""
        store, folder = self.store(self.params.tasks[task].features), RESULTS / task / "predictions"
        if not (folder / "index.json").is_file():
            raise UserError(f"{folder}: no index yet. Run `dvc repro predict@{task}`.")
        key = ("index", task, _stamp(folder), store.digest)
        return self._recent.get(key, lambda: FeatureIndex(folder, store), lambda index: bytes_in(folder))

    def _read(self, view: View, image: str) -> ImageFeatures:
        """Read the features of an image at a block."""
        store = self.store(view.entry)
        if view.block not in store.blocks:
            raise UserError(f"block: {view.entry} has blocks {store.blocks}, not {view.block}. Use one of them.")
        if upload := self._upload(view.entry, image):
            store, image = upload.store, upload.item
        key = (store.digest, view.block, image)
        return self._recent.get(key, lambda: store.features(view.block, image), lambda f: f.tokens.nbytes)

    def _upload(self, entry: str, image: str) -> Upload | None:
        """Return an uploaded image, or None if the image is one of the data set."""
        return None if image in self.store(entry) else self._uploads.get(entry, image)

    def _pair(self, view: View, source: str, target: str) -> tuple[ImageFeatures, ImageFeatures]:
        """Read the features of two images."""
        store = self.store(view.entry)
        if store.pairwise:
            return store.pair(view.block, source, target)
        return self._read(view, source), self._read(view, target)

    def _channels(self, view: View) -> list[int]:
        """Return the channels that descriptors with "+discard" set to 0."""
        return self.store(view.entry).massive(view.block)

    def correspondence(self, task: str) -> Correspondence:
        """Return a task of type correspondence. Raises `UserError` if there is no such task."""
        return self._task(task, Correspondence)

    def _task(self, name: str, kind: type[T]) -> T:
        """Return a task of a type. Raises `UserError` if there is no such task, or if it has another type."""
        check_entry(self.params.tasks, name, "tasks")
        task = self.params.tasks[name]
        if not isinstance(task, kind):
            raise UserError(f"task: {name} is of type {task.type}. Use a task of type {kind.__name__.lower()}.")
        return task

    def _dataset(self, entry: str) -> str:
        """Return the data set of an entry."""
        check_entry([*self.params.features, *self.params.fusions], entry, "features")
        features = self.params.fusions[entry].first.features if entry in self.params.fusions else entry
        return self.params.features[features].dataset

    def _reader(self, dataset: str) -> Callable[[str], RGB]:
        """Return a function that reads an image of a data set."""
        catalog = CATALOGS / dataset
        key = ("images", dataset, _stamp(catalog))
        return self._recent.get(key, lambda: image_reader(self.params, dataset), lambda read: bytes_in(catalog))

    def _describe_entry(self, name: str) -> Json:
        """Describe an entry of `features` or `fusions`."""
        shown: Json = {"name": name, "dataset": self._dataset(name)}
        try:
            store = self.store(name)
            if store.digest not in self._entries:
                self._entries[store.digest] = _describe_store(store)
        except UserError as error:
            return shown | {"missing": str(error)}
        return shown | {"missing": None} | self._entries[store.digest]

    def _describe_task(self, name: str) -> Json:
        """Describe a task."""
        task = self.params.tasks[name]
        done = (RESULTS / name / "metrics.json").is_file()
        return {
            "name": name,
            "type": task.type,
            "dataset": task.dataset,
            "features": task.features,
            "block": task.predict.block,
            "descriptors": list(task.predict.descriptors),
            "missing": None if done else f"{RESULTS / name}: no results yet. Run `dvc repro score@{name}`.",
        }


def _describe_store(store: FeatureReader) -> Json:
    """Describe features: their revision, images, blocks, descriptors and settings."""
    blocks = [
        {"block": block, "channels": store.channels(block), "massive": store.massive(block)} for block in store.blocks
    ]
    config = store.attributes.get("extraction_config", {})
    settings: Mapping[str, Any] = {key: config.get(key) for key in ("img_size", "timestep", "ensemble_size")}
    descriptors: list[str] = list(ORIGINAL)
    if not isinstance(store, FusedStore):
        conditions = store.attributes["conditions"]  # of the AdaLN; none without one
        descriptors = list(MODULATED if conditions else ORIGINAL)
        descriptors += [f"adaln:{condition}" for condition in conditions if condition != BOTH]
    return {
        "revision": store.digest,
        "source": store.attributes.get("source", ""),
        "images": len(store),
        "blocks": blocks,
        "descriptors": descriptors,
        **settings,
    }


def _stamp(path: Path) -> tuple[int, int]:
    """Return a value that changes when a file or folder is replaced. Raises `UserError` if there is none."""
    try:
        status = path.stat()
    except OSError:
        raise NotFoundError(f"{path}: not found. Run `dvc repro`.") from None
    return status.st_mtime_ns, status.st_ino
