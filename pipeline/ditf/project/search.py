"""Search and matching for the commands `ditf search` and `ditf match`."""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
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

DEFAULT_HITS = 10
DRAWN_HITS = 23  # largest number of hits in a drawing


@dataclass(frozen=True)
class DescriptorChoice:
    """Descriptors that are searched or matched.

    Attributes:
        block: Block of the model.
        descriptor: Name of the descriptor; see `ditf.features.descriptors`.
        channels: Massive channels, for descriptors with "+discard".
    """

    block: int
    descriptor: Descriptor
    channels: Sequence[int]


@dataclass(frozen=True)
class Query:
    """An image to search with.

    Attributes:
        name: Name of the image, for messages.
        item: Id of the image in the searched store, or None if it is not there.
        pixels: The image, uint8 [height, width, 3], or None if its file is missing.
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
            raise UserError(
                f"--at {text}: outside {self.name}, which is {width}x{height} pixels. "
                f"Give x from 0 to {width - 1} and y from 0 to {height - 1}."
            )
        return x, y

    def box(self, text: str) -> tuple[int, int, int, int]:
        """Parse a box "x0,y0,x1,y1" inside the image."""
        (x0, y0, x1, y1), (width, height) = _numbers(text, 4, "--box"), self.features.size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(
                f"--box {text}: not a box inside {self.name}, which is {width}x{height} pixels. "
                f"Give 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}."
            )
        return x0, y0, x1, y1


class ImageLibrary:
    """Images and features of a task's data set. It also provides query images from other data sets and from files.

    Args:
        params: Parameters of the project.
        name: Name of the task.
    """

    def __init__(self, params: Params, name: str) -> None:
        self.params, self.name, self.task = params, name, params.tasks[name]
        self.store = open_store(FEATURES / self.task.features)
        self._read = image_reader(params, self.task.dataset)

    @property
    def index_folder(self) -> Path:
        """Folder of the task's index, if the task is of type retrieval."""
        return RESULTS / self.name / "predictions"

    def index(self) -> FeatureIndex:
        """Open the task's index."""
        return FeatureIndex(self.index_folder, self.store)

    def descriptor_settings(self) -> DescriptorChoice:
        """Return the indexed descriptors. Without an index, return the descriptors in the task's parameters."""
        if (self.index_folder / "index.json").exists():
            record = check_index(self.index_folder)
            return DescriptorChoice(record["block"], record["descriptor"], record["channels"])
        settings = self.task.predict
        return DescriptorChoice(settings.block, settings.descriptors[-1], settings.discarded(self.store))

    def pixels(self, item: str, read: Callable[[str], RGB] | None = None) -> RGB | None:
        """Read an image. If its file is missing, print a line to standard error.

        Args:
            item: Id of the image.
            read: Function that reads an image. By default, images of the task's data set are read.

        Returns:
            The image, uint8 [height, width, 3], or None if its file is missing.
        """
        try:
            return (read or self._read)(item)
        except UserError as error:
            if "not found" not in str(error):
                raise
            print(f"{item}: its file is not here, so it is not drawn", file=sys.stderr)
            return None

    def query(self, name: str, block: int, prompt: str | None) -> Query:
        """Load an image and its features. The features of a new file are extracted.

        Args:
            name: Id of an image, or path of a file.
            block: Block of the model.
            prompt: Prompt for a file that is not in the data set. By default, the prompt of the data set.

        Raises:
            UserError: The name is neither an id nor a file.
        """
        if name in self.store:
            return Query(name, name, self.pixels(name), self.store.features(block, name))
        ids = list(self.store.ids)
        for other, settings in self.params.features.items():
            path = FEATURES / other
            if not path.is_dir():
                continue
            store = FeatureStore(path)
            if _extracted_alike(store, self.store):
                if name in store:
                    pixels = self.pixels(name, image_reader(self.params, settings.dataset))
                    return Query(name, None, pixels, store.features(block, name))
                ids += store.ids
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: neither a file nor an image of {self.store.path}. {suggest_image(name, ids)}")
        pixels = read_rgb(path)
        reader, item = self._extracted(path, pixels, prompt)
        return Query(path.name, item if reader is self.store else None, pixels, reader.features(block, item))

    def _extracted(self, path: Path, pixels: RGB, prompt: str | None) -> tuple[FeatureReader, str]:
        """Return features of a file. If the data set has the same image, its features are used.

        Args:
            path: The file.
            pixels: Its image, uint8 [height, width, 3].
            prompt: Prompt of the image. By default, the prompt of the data set.

        Returns:
            A store, and the id of the image in it.
        """
        digest = hash_pixels(pixels)
        for item, row in Catalog(CATALOGS / self.task.dataset).images().items():
            if row["pixels_sha256"] == digest and prompt in (None, row["prompt"]) and item in self.store:
                return self.store, item
        if self.task.features in self.params.fusions:
            raise UserError(
                f"{path}: a fusion has only features of its data set. Give the id of an image of the data set."
            )
        if prompt is None:
            prompt = getattr(self.params.datasets[self.task.dataset], "prompt", "").replace("{category}", CATEGORY)
        extraction_config = self.store.attributes["extraction_config"]
        folder = QUERIES / fingerprint(extraction_config) / fingerprint([digest, prompt])
        if not (folder / "complete").exists():
            if not _can_write(folder.parent):
                self._temporary = TemporaryDirectory(prefix="ditf-")  # removed when the command ends
                folder = Path(self._temporary.name) / "query"
            self._extract(path, prompt, folder)
        store = FeatureStore(folder / "store.zarr")
        return store, store.ids[0]

    def _extract(self, path: Path, prompt: str, folder: Path) -> None:
        """Extract the features of a file with the settings of the store.

        Args:
            path: The file.
            prompt: Prompt of the image.
            folder: Folder of the new store. Its parent also holds the encoded prompts.
        """
        # Here, because these modules import torch.
        from ditf.backbones.device import choose
        from ditf.features.extract import extract
        from ditf.features.extractor import ImageSource
        from ditf.features.text import encode_prompts

        _, job = extraction(self.params, self.task.features)
        require_same(self.store, job.extraction_config)
        source = ImageSource.from_file(path.name, path, prompt)
        job = replace(job, texts=folder.parent / "text")
        with exclusive(folder):
            device, dtype = choose(job.device, job.text_dtype)
            encode_prompts([prompt], job.texts, job.model, job.backbone, dtype, device)
            extract(folder, [source], job)


def _can_write(folder: Path) -> bool:
    """Return whether files can be written to a folder, which is created. If not, print a warning."""
    with warning_if_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    return False


def require_same(store: FeatureReader, extraction_config: dict[str, Any]) -> None:
    """Check that a store was extracted with the current configuration.

    Args:
        store: The store.
        extraction_config: Configuration from the parameters.

    Raises:
        UserError: A setting differs.
    """
    stored = store.attributes["extraction_config"]
    for name in sorted(stored.keys() | extraction_config.keys()):
        if stored.get(name) != extraction_config.get(name):
            raise UserError(
                f"{store.path}: extracted with {name} {stored.get(name)}, but params.yaml now has "
                f"{extraction_config.get(name)}. Set it back, or run `dvc repro`."
            )


def search_task(params: Params, task: str | None, name: str) -> str:
    """Choose the task whose index is searched.

    Args:
        params: Parameters of the project.
        task: Task that the user chose, or None.
        name: Id or file of the query image.

    Returns:
        The chosen task. By default, the task whose data set has the image, or the only task with an index.
    """
    retrieval = [entry for entry, settings in params.tasks.items() if isinstance(settings, Retrieval)]
    if task is not None:
        check_entry(retrieval, task, "tasks, of type retrieval,")
        return task
    indexed = [entry for entry in retrieval if (RESULTS / entry / "predictions" / "index.json").exists()]
    if not indexed:
        raise UserError(f"{RESULTS}: no index yet. Run `dvc repro` with a task of type retrieval in params.yaml.")
    return _only(_tasks_with_images(params, indexed, [name]), name)


def match_task(params: Params, task: str | None, names: Sequence[str]) -> str:
    """Choose the task whose features and descriptors are matched. It needs features, but no index.

    Args:
        params: Parameters of the project.
        task: Task that the user chose, or None.
        names: Ids or files of the images to match.

    Returns:
        The chosen task. By default, the task whose data set has the images; tasks of type retrieval come first, then
        tasks of type correspondence.
    """
    if task is not None:
        check_entry(params.tasks, task, "tasks")
        return task
    extracted = [name for name, settings in params.tasks.items() if (FEATURES / settings.features).is_dir()]
    if not extracted:
        raise UserError(f"{FEATURES}: no features yet. Run `dvc repro`.")
    for kind in (Retrieval, Correspondence, Task):
        if tasks := [name for name in extracted if isinstance(params.tasks[name], kind)]:
            candidates = _tasks_with_images(params, tasks, names)
            break
    return _only(candidates, names[0])


def _tasks_with_images(params: Params, tasks: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the tasks whose data set has one of the images.

    Args:
        params: Parameters of the project.
        tasks: Tasks to choose from.
        names: Ids or files of images.

    Returns:
        The names of these tasks. If no data set has an image, but there is a file, all tasks are returned.

    Raises:
        UserError: No data set has an image, and there is no file; or a file is not an image.
    """
    stores = {task: open_store(FEATURES / params.tasks[task].features) for task in tasks}
    files = [path.resolve() for path in map(Path, names) if path.is_file()]
    matching_tasks = [
        task
        for task in tasks
        if set(names) & set(stores[task].ids)
        or any(path.is_relative_to(Path(params.datasets[params.tasks[task].dataset].root).resolve()) for path in files)
    ]
    if matching_tasks:
        return matching_tasks
    for path in files:
        read_rgb(path)  # reports a file that is not an image, before the choice of a task is reported
    if not files:
        ids = [image for store in stores.values() for image in store.ids]
        raise UserError(
            f"{names[0]}: neither a file nor an image that {', '.join(tasks)} can search. "
            f"{suggest_image(names[0], ids)}"
        )
    return list(tasks)


def _only(tasks: Sequence[str], name: str) -> str:
    """Return the only task, or raise `UserError` if there are several."""
    if len(tasks) > 1:
        raise UserError(f"--task: several tasks can search with {name!r}. Name one of {', '.join(tasks)}.")
    return tasks[0]


def suggest_image(name: str, ids: Sequence[str]) -> str:
    """Return a sentence that suggests the most similar id, or that shows an example of an id.

    Args:
        name: Name that is not an id.
        ids: Ids of images.
    """
    stems = {image.rpartition("/")[2]: image for image in ids}
    for choices in (dict(zip(ids, ids, strict=True)), stems):
        if close := difflib.get_close_matches(name, choices, 1):
            return f"Did you mean {choices[close[0]]}?"
    return f"An id looks like {ids[0]}." if ids else ""


@dataclass(frozen=True)
class SearchRequest:
    """Arguments of `ditf search`.

    Attributes:
        image: Id of an image, or path of a file.
        at: Point "x,y" in pixels.
        box: Region "x0,y0,x1,y1" in pixels. Without a point and a region, the query is the whole image.
        k: Number of hits. By default 10. If fewer are available, all are found.
        all_hits: Whether to include hits in the query image, and several hits per image.
        task: Name of a task of type retrieval. By default, it is chosen by the image.
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
    """Find places or images that are similar to a point, a region or an entire image, and draw them.

    Args:
        params: Parameters of the project.
        request: Arguments of the command.
        out: File for the drawing. By default, a file in results/drawings.

    Returns:
        The hits, best first, and the file of the drawing, or None if nothing was drawn.
    """
    if request.at is not None and request.box is not None:
        raise UserError("--at and --box: give one of them, or neither to search with the entire image.")
    library = ImageLibrary(params, search_task(params, request.task, request.image))
    index = library.index()
    with threadpool_limits(1, user_api="blas"):  # products of few vectors are faster in one thread
        query = library.query(request.image, index.settings.block, request.prompt)
        mark, hits = _hits(index, query, request)
    rows = [{"rank": rank, **hit} for rank, hit in enumerate(hits, 1)]
    path = out or drawing_path("search", query.name, request.at or request.box, "all" if request.all_hits else None)
    return rows, _draw_hits(path, library, query, mark, rows)


def _hits(index: FeatureIndex, query: Query, request: SearchRequest) -> tuple[tuple[int, ...], Rows]:
    """Search an index.

    Args:
        index: The index.
        query: Image to search with.
        request: Arguments of the command.

    Returns:
        The point (x, y) or the region (x0, y0, x1, y1) of the query in pixels, or an empty tuple for an entire image;
        and the hits, best first.
    """
    settings, features = index.settings, query.features
    exclude = None if request.all_hits else query.item
    images = len(index.store) - (exclude is not None)
    if images == 0:
        raise UserError(f"{index.store.path}: has no image besides {query.name}. Add --all to search in this image.")
    if request.at is not None:
        point = query.point(request.at)
        vector = descriptors_at(features, np.array([point]), settings.descriptor, settings.channels)[0]
        k = min(DEFAULT_HITS if request.k is None else request.k, len(index) if request.all_hits else images)
        hits = index.search(vector, k, per_image=not request.all_hits, exclude=exclude)
        return point, [asdict(hit) for hit in hits]
    tokens = unit(features.descriptors(settings.descriptor, settings.channels))
    k = min(DEFAULT_HITS if request.k is None else request.k, images)
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
    """Draw a query and its hits.

    Args:
        path: File for the drawing.
        library: Images of the hits.
        query: Image to search with.
        mark: Point or region of the query in pixels, or an empty tuple.
        rows: Hits with their ranks.

    Returns:
        The file, or None if nothing could be drawn or written.
    """
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
    """Arguments of `ditf match`.

    Attributes:
        source: Id or file of the image with the points.
        target: Id or file of the image in which the points are matched.
        at: Points "x,y" of the source image in pixels.
        task: Name of the task whose descriptors are used. By default, it is chosen by the images.
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
        params: Parameters of the project.
        request: Arguments of the command.
        out: File for the drawing. By default, a file in results/drawings.

    Returns:
        A row per point, and the file of the drawing, or None if nothing was drawn.
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


COMPARABLE = ("rule", "img_size", "seed", "noise", "encoding")  # features with other values can still be compared


def _extracted_alike(store: FeatureReader, other: FeatureReader) -> bool:
    """Return whether two stores were extracted with the same settings, apart from those in `COMPARABLE`."""
    one, two = (
        {key: value for key, value in s.attributes["extraction_config"].items() if key not in COMPARABLE}
        for s in (store, other)
    )
    return one == two


def _numbers(text: str, count: int, flag: str) -> list[int]:
    """Parse a number of coordinates separated by commas. `flag` is named in the error."""
    fields = text.split(",")
    if len(fields) != count or not all(re.fullmatch(r"\s*-?\d{1,6}\s*", field) for field in fields):
        example = ",".join(("120", "80", "200", "160")[:count])
        raise UserError(f"{flag} {text}: give {count} whole numbers of pixels with commas, such as {example}.")
    return [int(field) for field in fields]


def _inside(box: tuple[int, ...], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the tokens inside a box.

    Args:
        box: Corners (x0, y0, x1, y1) in pixels.
        grid: Rows and columns of tokens, (h, w).
        size: Width and height of the image in pixels.

    Returns:
        Indices of the tokens whose centres are in the box, [n]. If there are none, the token nearest to its middle.
    """
    x0, y0, x1, y1 = box
    y, x = ((p.ravel() + 0.5) * side / n for p, side, n in zip(np.indices(grid), size[::-1], grid, strict=True))
    inside = np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    if len(inside):
        return inside
    return np.array([np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2).argmin()])
