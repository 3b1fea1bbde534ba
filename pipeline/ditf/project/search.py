"""The commands `ditf search` and `ditf match`: find places in cached features that look like a point or a region."""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ditf.config.params import Params
from ditf.data.catalog import Catalog
from ditf.data.images import RGB, hash_pixels, read_rgb
from ditf.datasets.folder import CATEGORY
from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.fusion import open_store
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.features.store import FeatureStore
from ditf.files import exclusive, fingerprint, warning_if_unwritable
from ditf.matching.nearest import PixelIndex
from ditf.matching.pairs import descriptors_at
from ditf.project.entries import check_entry, extraction, image_reader
from ditf.project.paths import CATALOGS, FEATURES, QUERIES, RESULTS, drawing_path
from ditf.retrieval.search import FeatureIndex, check_index
from ditf.tasks.base import Task
from ditf.tasks.correspondence import Correspondence
from ditf.tasks.retrieval import Retrieval
from ditf.types import Descriptor

DRAWN_HITS = 23  # hits in a drawing


@dataclass(frozen=True)
class DescriptorChoice:
    """The descriptors that are searched or matched.

    Attributes:
        block: Block of the model.
        descriptor: Descriptor.
        channels: Channels that are discarded.
    """

    block: int
    descriptor: Descriptor
    channels: Sequence[int]


@dataclass(frozen=True)
class Query:
    """An image to search with.

    Attributes:
        name: Name of the image, for messages.
        item: Id of the image in the store that is searched, if it is there.
        pixels: The image, or None if its file is missing.
        features: Features of the image.
    """

    name: str
    item: str | None
    pixels: RGB | None
    features: ImageFeatures

    def point(self, text: str) -> tuple[int, int]:
        """Parse a point "x,y" inside the image."""
        (x, y), (width, height) = _numbers(text, 2, "--at"), self.features.size
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"--at {text}: outside {self.name}, which is {width}x{height} pixels")
        return x, y

    def box(self, text: str) -> tuple[int, int, int, int]:
        """Parse a box "x0,y0,x1,y1" inside the image."""
        (x0, y0, x1, y1), (width, height) = _numbers(text, 4, "--box"), self.features.size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(f"--box {text}: not a box inside {self.name}, which is {width}x{height} pixels")
        return x0, y0, x1, y1


class ImageLibrary:
    """The images that a task can find, with their features, and the images to search with.

    Args:
        params: The parameters of the project.
        name: A task.
    """

    def __init__(self, params: Params, name: str) -> None:
        self.params, self.name, self.task = params, name, params.tasks[name]
        self.store = open_store(FEATURES / self.task.features)
        self._read = image_reader(params, self.task.dataset)

    @property
    def index_folder(self) -> Path:
        """The folder of the task's index, if the task is of type retrieval."""
        return RESULTS / self.name / "predictions"

    def index(self) -> FeatureIndex:
        """Open the task's index."""
        return FeatureIndex(self.index_folder, self.store)

    def descriptor_settings(self) -> "DescriptorChoice":
        """Return the descriptors that were indexed, or the descriptors of the task's parameters without an index."""
        if (self.index_folder / "index.json").exists():
            record = check_index(self.index_folder)
            return DescriptorChoice(record["block"], record["descriptor"], record["channels"])
        settings = self.task.predict
        return DescriptorChoice(settings.block, settings.descriptors[-1], settings.discarded(self.store))

    def pixels(self, item: str, read: Callable[[str], RGB] | None = None) -> RGB | None:
        """Read an image, [height, width, 3]. If its file is missing, print a line and return None.

        Args:
            item: Id of the image.
            read: Reads images of another data set.
        """
        try:
            return (read or self._read)(item)
        except UserError as error:
            if "not found" not in str(error):
                raise
            print(f"{item}: its file is not here, so it is not drawn", file=sys.stderr)
            return None

    def query(self, name: str, block: int, prompt: str | None) -> Query:
        """Return an image with its features.

        Args:
            name: Id of an image, or a file.
            block: Block whose features are read.
            prompt: Prompt for a file that is not in the data set. By default, the prompt of the data set.
        """
        if name in self.store:
            return Query(name, name, self.pixels(name), self.store.features(block, name))
        known = list(self.store.ids)
        for other, requested in self.params.features.items():
            path = FEATURES / other
            if not path.is_dir():
                continue
            store = FeatureStore(path)
            if _extracted_alike(store, self.store):
                if name in store:
                    pixels = self.pixels(name, image_reader(self.params, requested.dataset))
                    return Query(name, None, pixels, store.features(block, name))
                known += store.ids
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: neither a file nor an image of {self.store.path}. {suggest_image(name, known)}")
        pixels = read_rgb(path)
        reader, item = self._extracted(path, pixels, prompt)
        return Query(path.name, item if reader is self.store else None, pixels, reader.features(block, item))

    def _extracted(self, path: Path, pixels: RGB, prompt: str | None) -> tuple[FeatureReader, str]:
        """Return the store and id of a file: those of the same image in the data set, or a new store in the cache."""
        digest = hash_pixels(pixels)
        for item, row in Catalog(CATALOGS / self.task.dataset).images().items():
            if row["pixels_sha256"] == digest and prompt in (None, row["prompt"]) and item in self.store:
                return self.store, item
        if self.task.features in self.params.fusions:
            raise UserError(f"{path}: a fusion has no model of its own; give an image of the data set by its id")
        if prompt is None:
            prompt = getattr(self.params.datasets[self.task.dataset], "prompt", "").replace("{category}", CATEGORY)
        extraction_config = self.store.attributes["extraction_config"]
        home = QUERIES / fingerprint(extraction_config)
        folder = home / fingerprint([digest, prompt])
        if not (folder / "complete").exists():
            self._extract(path, digest, prompt, home, folder)
        store = FeatureStore(folder / "store.zarr")
        return store, store.ids[0]

    def _extract(self, path: Path, digest: str, prompt: str, home: Path, folder: Path) -> None:
        from ditf.backbones.device import choose
        from ditf.features.extract import extract
        from ditf.features.extractor import ImageSource
        from ditf.features.text import encode_prompts

        _, job = extraction(self.params, self.task.features)
        require_same(self.store, job.extraction_config)
        source = ImageSource.from_file(path.name, path, prompt)
        job = replace(job, texts=home / "text")
        with exclusive(folder):
            device, dtype = choose(job.device, job.text_dtype)
            encode_prompts([prompt], job.texts, job.model, job.backbone, dtype, device)
            extract(folder, [source], job)


def require_same(store: FeatureReader, extraction_config: dict[str, Any]) -> None:
    """Raise `UserError` unless a store was extracted with this configuration."""
    stored = store.attributes["extraction_config"]
    for name in sorted(stored.keys() | extraction_config.keys()):
        if stored.get(name) != extraction_config.get(name):
            raise UserError(
                f"{store.path}: made with {name} {stored.get(name)}, but params.yaml now has "
                f"{extraction_config.get(name)}. Set it back, or run `dvc repro`."
            )


def search_task(params: Params, task: str | None, name: str) -> str:
    """Choose the task whose index is searched.

    Args:
        params: The parameters of the project.
        task: A task that the user named.
        name: The image to search with.

    Returns:
        The named task. Otherwise the task whose data set holds the image, or the only task with an index.
    """
    retrieval = [entry for entry, settings in params.tasks.items() if isinstance(settings, Retrieval)]
    if task is not None:
        check_entry(retrieval, task, "tasks, of type retrieval,")
        return task
    indexed = [entry for entry in retrieval if (RESULTS / entry / "predictions" / "index.json").exists()]
    if not indexed:
        raise UserError(f"{RESULTS}: no index yet. Run `dvc repro` with a task of type retrieval in params.yaml.")
    return _only(_holding(params, indexed, [name]), name)


def match_task(params: Params, task: str | None, names: Sequence[str]) -> str:
    """Choose the task whose features and descriptors are matched. It needs features, but no index.

    Args:
        params: The parameters of the project.
        task: A task that the user named.
        names: The images to match.

    Returns:
        The named task. Otherwise the task of type retrieval, or else correspondence, whose data set holds the images.
    """
    if task is not None:
        check_entry(params.tasks, task, "tasks")
        return task
    extracted = [name for name, settings in params.tasks.items() if (FEATURES / settings.features).is_dir()]
    if not extracted:
        raise UserError(f"{FEATURES}: no features yet. Run `dvc repro`.")
    for kind in (Retrieval, Correspondence, Task):
        if tasks := [name for name in extracted if isinstance(params.tasks[name], kind)]:
            holding = _holding(params, tasks, names)
            break
    return _only(holding, names[0])


def _holding(params: Params, tasks: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the tasks whose data set holds one of the images. If a file is in none, all tasks are returned."""
    stores = {task: open_store(FEATURES / params.tasks[task].features) for task in tasks}
    files = [path.resolve() for path in map(Path, names) if path.is_file()]
    holding = [
        task
        for task in tasks
        if set(names) & set(stores[task].ids)
        or any(path.is_relative_to(Path(params.datasets[params.tasks[task].dataset].root).resolve()) for path in files)
    ]
    if holding:
        return holding
    for path in files:
        read_rgb(path)  # a file that is not an image is the error, and not the choice of a task
    if not files:
        known = [image for store in stores.values() for image in store.ids]
        raise UserError(
            f"{names[0]}: neither a file nor an image that {', '.join(tasks)} can search. "
            f"{suggest_image(names[0], known)}"
        )
    return list(tasks)


def _only(tasks: Sequence[str], name: str) -> str:
    if len(tasks) > 1:
        raise UserError(f"--task: several tasks can search with {name!r}. Name one of {', '.join(tasks)}.")
    return tasks[0]


def suggest_image(name: str, known: Sequence[str]) -> str:
    """Return the most similar id as a suggestion, or an example of an id."""
    stems = {image.rpartition("/")[2]: image for image in known}
    for choices in (dict(zip(known, known, strict=True)), stems):
        if close := difflib.get_close_matches(name, choices, 1):
            return f"Did you mean {choices[close[0]]}?"
    return f"An id looks like {known[0]}." if known else ""


@dataclass(frozen=True)
class SearchRequest:
    """What `ditf search` searches for.

    Attributes:
        image: Id of an image, or a file.
        at: Point "x,y".
        box: Region "x0,y0,x1,y1". Without a point and a region, whole images are searched.
        k: Number of hits. By default 10, or fewer if there are not as many.
        all_hits: Whether to include the image itself and several hits per image.
        task: Task of type retrieval. By default, it is chosen by the image.
        prompt: Prompt for a file that is not in the data set.
    """

    image: str
    at: str | None = None
    box: str | None = None
    k: int | None = None
    all_hits: bool = False
    task: str | None = None
    prompt: str | None = None


Rows = list[dict[str, Any]]


def search(params: Params, request: SearchRequest, out: Path | None = None) -> tuple[Rows, Path | None]:
    """Find places or images that are similar to a point, a region or a whole image, and draw them.

    Args:
        params: The parameters of the project.
        request: What is searched for.
        out: File of the drawing. By default a file in results/drawings.

    Returns:
        The hits, best first, and the file of the drawing if there is one.
    """
    if request.at is not None and request.box is not None:
        raise UserError("--at and --box: give one of them, or none for the whole image")
    library = ImageLibrary(params, search_task(params, request.task, request.image))
    index = library.index()
    with threadpool_limits(1, user_api="blas"):  # products of few vectors are faster in one thread
        query = library.query(request.image, index.settings.block, request.prompt)
        mark, hits = _hits(index, query, request)
    rows = [{"rank": rank, **hit} for rank, hit in enumerate(hits, 1)]
    path = out or drawing_path("search", query.name, request.at or request.box, "all" if request.all_hits else None)
    return rows, _draw_hits(path, library, query, mark, rows)


def _hits(index: FeatureIndex, query: Query, request: SearchRequest) -> tuple[tuple[int, ...], Rows]:
    """Return the point or region that was searched for, in pixels, and the hits."""
    settings, features = index.settings, query.features
    exclude = None if request.all_hits else query.item
    images = len(index.store) - (exclude is not None)
    if images == 0:
        raise UserError(f"{index.store.path}: has no other image than {query.name}. Add --all to search in it.")
    if request.at is not None:
        point = query.point(request.at)
        vector = descriptors_at(features, np.array([point]), settings.descriptor, settings.channels)[0]
        k = request.k if request.k is not None else min(10, len(index) if request.all_hits else images)
        hits = index.search(vector, k, per_image=not request.all_hits, exclude=exclude)
        return point, [asdict(hit) for hit in hits]
    tokens = unit(features.descriptors(settings.descriptor, settings.channels))
    k = request.k if request.k is not None else min(10, images)
    if request.box is not None:
        box = query.box(request.box)
        inside = _inside(box, features.grid, features.size)
        rows, columns = np.divmod(inside, features.grid[1])
        shape = (len(np.unique(rows)), len(np.unique(columns)))
        regions = index.search_regions(tokens[inside].mean(0), shape, k, not request.all_hits, exclude)
        return box, [asdict(hit) for hit in regions]
    similar = index.search_images(tokens.mean(0), k, exclude)
    return (), [{"image": image, "point": None, "box": None, "similarity": value} for image, value in similar]


def _draw_hits(path: Path, library: ImageLibrary, query: Query, mark: tuple[int, ...], rows: Rows) -> Path | None:
    """Draw a query and its hits. Return the file, or None if nothing could be drawn or written."""
    from ditf.drawing.matches import NamedImage  # here, because matplotlib takes long to import
    from ditf.drawing.places import draw_places

    shown = {row["image"]: library.pixels(row["image"]) for row in rows[:DRAWN_HITS]}
    available = {image: pixels for image, pixels in shown.items() if pixels is not None}
    drawn = [row for row in rows if row["image"] in available]
    if query.pixels is None or not drawn:
        return None
    with warning_if_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_places(path, NamedImage(query.name, query.pixels), mark, drawn, available.__getitem__)
        return path
    return None


@dataclass(frozen=True)
class MatchRequest:
    """What `ditf match` matches.

    Attributes:
        source: The image with the points: an id or a file.
        target: The image in which they are found: an id or a file.
        at: Points "x,y" of the source.
        task: Task whose descriptors are used. By default, it is chosen by the images.
        prompt: Prompt for files that are not in the data set.
    """

    source: str
    target: str
    at: Sequence[str]
    task: str | None = None
    prompt: str | None = None


def match(params: Params, request: MatchRequest, out: Path | None = None) -> tuple[Rows, Path | None]:
    """Find the points of one image that correspond to points of another, and draw the similarity maps.

    Args:
        params: The parameters of the project.
        request: What is matched.
        out: File of the drawing. By default a file in results/drawings.

    Returns:
        A row per point, and the file of the drawing if there is one.
    """
    names = (request.source, request.target)
    library = ImageLibrary(params, match_task(params, request.task, names))
    settings = library.descriptor_settings()
    source, target = (library.query(name, settings.block, request.prompt) for name in names)
    points = np.array([source.point(text) for text in request.at])
    with threadpool_limits(1, user_api="blas"):  # products of few vectors are faster in one thread
        queries = descriptors_at(source.features, points, settings.descriptor, settings.channels)
        tokens, grid = target.features.descriptors(settings.descriptor, settings.channels), target.features.grid
        matches, similarity = PixelIndex(tokens, grid, target.features.size).search(queries)
        maps = (unit(queries) @ unit(tokens).T).reshape(-1, *grid)
    rows = [
        {"point": point, "match": matched, "similarity": float(value)}
        for point, matched, value in zip(points.tolist(), matches.tolist(), similarity, strict=True)
    ]
    if source.pixels is None or target.pixels is None:
        return rows, None
    from ditf.drawing.matches import NamedImage, draw_similarity  # here, because matplotlib takes long to import

    path = out or drawing_path("match", source.name, target.name, *request.at)
    with warning_if_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        images = NamedImage(source.name, source.pixels), NamedImage(target.name, target.pixels)
        draw_similarity(path, *images, rows, maps)
        return rows, path
    return rows, None


RESIZING = ("rule", "img_size", "seed", "noise", "encoding")  # settings by which compared features may differ


def _extracted_alike(store: FeatureReader, other: FeatureReader) -> bool:
    """Return whether two stores were extracted with the same settings, apart from those in `RESIZING`."""
    one, two = (
        {key: value for key, value in s.attributes["extraction_config"].items() if key not in RESIZING}
        for s in (store, other)
    )
    return one == two


def _numbers(text: str, count: int, flag: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != count or not all(re.fullmatch(r"\s*-?\d{1,6}\s*", part) for part in parts):
        example = ",".join(("120", "80", "200", "160")[:count])
        raise UserError(f"{flag} {text}: give {count} whole numbers of pixels with commas, such as {example}")
    return [int(part) for part in parts]


def _inside(box: tuple[int, ...], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the tokens whose centres are in a box, [n]. A box that holds no centre gives the token at its middle."""
    x0, y0, x1, y1 = box
    y, x = ((p.ravel() + 0.5) * side / n for p, side, n in zip(np.indices(grid), size[::-1], grid, strict=True))
    inside = np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    if len(inside):
        return inside
    return np.array([np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2).argmin()])
