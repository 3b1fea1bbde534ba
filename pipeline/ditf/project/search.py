"""The commands `ditf search` and `ditf match`: places in cached features that look like a point, a region, an image."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditf.config.params import Params
from ditf.data.catalog import Catalog
from ditf.data.images import RGB, hash_pixels, read_rgb
from ditf.datasets.folder import CATEGORY
from ditf.errors import UserError, suggest
from ditf.features.descriptors import unit
from ditf.features.fusion import open_store
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.features.store import FeatureStore
from ditf.files import exclusive, fingerprint
from ditf.matching.pairs import descriptors_at
from ditf.project.entries import check_entry, extraction, image_reader
from ditf.project.paths import CATALOGS, FEATURES, QUERIES, RESULTS, drawing_path
from ditf.retrieval.search import FeatureIndex
from ditf.tasks.retrieval import Retrieval


@dataclass(frozen=True)
class Query:
    """An image to search with. pixels: None where its file is not here."""

    name: str
    pixels: RGB | None
    features: ImageFeatures

    def point(self, text: str) -> tuple[int, int]:
        """The pixel that "x,y" names. Raises `UserError` outside the image."""
        (x, y), (width, height) = _numbers(text, 2, "--at"), self.features.size
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"--at {text}: outside {self.name}, which is {width}x{height} pixels")
        return x, y

    def box(self, text: str) -> tuple[int, int, int, int]:
        """The box that "x0,y0,x1,y1" names. Raises `UserError` outside the image, or for an empty one."""
        (x0, y0, x1, y1), (width, height) = _numbers(text, 4, "--box"), self.features.size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(f"--box {text}: not a box inside {self.name}, which is {width}x{height} pixels")
        return x0, y0, x1, y1


class ImageSearch:
    """The index of a retrieval task, its store, and the images that may be searched with."""

    def __init__(self, params: Params, task: str) -> None:
        self.params, self.name, self.task = params, task, params.tasks[task]
        self.store = open_store(FEATURES / self.task.features)
        self.index = FeatureIndex(RESULTS / task / "predictions", self.store)
        self._read = image_reader(params, self.task.dataset)

    @classmethod
    def of(cls, params: Params, task: str | None, names: list[str]) -> "ImageSearch":
        """Of the retrieval task named, or else of the one whose store holds the images `names`, or of the only one."""
        known = {name: found for name, found in params.tasks.items() if isinstance(found, Retrieval)}
        if task is not None:
            check_entry(known, task, "tasks, of type retrieval,")
            return cls(params, task)
        there = [name for name in known if (RESULTS / name / "predictions" / "index.json").exists()]
        if not there:
            raise UserError("no index yet: run `dvc repro`, with a task of type retrieval in params.yaml")
        found = [name for name in there if set(names) & set(open_store(FEATURES / known[name].features).ids)]
        if not found and not any(Path(name).is_file() for name in names):
            ids = [item for name in there for item in open_store(FEATURES / known[name].features).ids]
            raise UserError(
                f"{names[0]}: neither a file nor an image that {', '.join(there)} can search. " + suggest(names[0], ids)
            )
        choice = found or there
        if len(choice) > 1:
            raise UserError(f"--task: {names[0]!r} does not tell which; name one of {', '.join(choice)}")
        return cls(params, choice[0])

    def pixels(self, item: str, read: Callable[[str], RGB] | None = None) -> RGB | None:
        """An image, [height, width, 3]; None, and a line, where its file is not here. read: of another data set."""
        try:
            return (read or self._read)(item)
        except UserError as error:
            if "not found" not in str(error):
                raise
            print(f"{item}: its file is not here, so it is not drawn")
            return None

    def query(self, name: str, prompt: str | None) -> Query:
        """The image with the id `name`, or the file of this name."""
        block = self.index.settings.block
        if name in self.store:
            return Query(name, self.pixels(name), self.store.features(block, name))
        store: FeatureReader
        for other, requested in self.params.features.items():  # the image of another data set, seen in the same way
            path = FEATURES / other
            if path.is_dir() and name in (store := FeatureStore(path)) and _alike(store, self.store):
                return Query(
                    name, self.pixels(name, image_reader(self.params, requested.dataset)), store.features(block, name)
                )
        path = Path(name)
        if not path.is_file():
            raise UserError(
                f"{name}: neither a file nor an image of {self.store.path} . " + suggest(name, self.store.ids)
            )
        store, item = self._extracted(path, prompt)
        return Query(path.name, read_rgb(path), store.features(block, item))

    def _extracted(self, path: Path, prompt: str | None) -> tuple[FeatureReader, str]:
        """The features of a file: of the data set's image if it is one, else extracted now, and kept."""
        digest = hash_pixels(read_rgb(path))
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
    """Raises `UserError` unless `store` was made as `extraction_config` says."""
    own = store.attributes["extraction_config"]
    for name in sorted(own.keys() | extraction_config.keys()):
        if own.get(name) != extraction_config.get(name):
            raise UserError(
                f"{store.path}: made with {name} {own.get(name)}, but now it is {extraction_config.get(name)}; "
                "set it back, or run `dvc repro`"
            )


def search(
    params: Params,
    task: str | None,
    name: str,
    at: str | None,
    box: str | None,
    k: int | None,
    per_image: bool,
    prompt: str | None,
    out: Path | None,
) -> tuple[list[dict[str, Any]], Path | None]:
    """What `ditf search` does: the results as rows, and the drawing's path."""
    from ditf.drawing.pictures import draw_places

    if at is not None and box is not None:
        raise UserError("--at and --box: give one of them, or none for the whole image")
    library = ImageSearch.of(params, task, [name])
    index, query = library.index, library.query(name, prompt)
    s, mark = index.settings, tuple[int, ...]()
    most = len(index) if (at or box) and not per_image else len(library.store)
    k = min(10, most) if k is None else k
    if at is not None:
        mark = query.point(at)
        vector = descriptors_at(query.features, np.array([mark]), s.descriptor, s.channels)[0]
    else:
        tokens = unit(query.features.descriptors(s.descriptor, s.channels))
        if box is not None:
            mark = query.box(box)
            tokens = tokens[_inside(mark, query.features.grid, query.features.size)]
        vector = tokens.mean(0)
    if at is None and box is None:
        images = index.search_images(vector, k)
        found: list[dict[str, Any]] = [
            {"image": item, "point": None, "box": None, "similarity": value} for item, value in images
        ]
    else:
        found = [asdict(place) for place in index.search(vector, k, per_image)]
    rows = [{"rank": rank, **row} for rank, row in enumerate(found, 1)]
    shown = {row["image"]: library.pixels(row["image"]) for row in rows[:23]}
    drawn = [row for row in rows if shown.get(row["image"]) is not None]
    if query.pixels is None or not drawn:
        return rows, None
    path = out or drawing_path("search", query.name, at or box, "per-image" if per_image else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_places(path, query.pixels, mark, drawn, lambda item: _there(shown[item]))
    return rows, path


def match(
    params: Params, task: str | None, names: tuple[str, str], at: list[str], prompt: str | None, out: Path | None
) -> tuple[list[dict[str, Any]], Path | None]:
    """What `ditf match` does, by the index's descriptors: the results as rows, and the drawing's path."""
    from ditf.drawing.pictures import draw_similarity
    from ditf.matching.nearest import PixelIndex

    library = ImageSearch.of(params, task, list(names))
    source, target = (library.query(name, prompt) for name in names)
    s, points = library.index.settings, np.array([source.point(text) for text in at])
    queries = descriptors_at(source.features, points, s.descriptor, s.channels)
    tokens, grid = target.features.descriptors(s.descriptor, s.channels), target.features.grid
    found, similarity = PixelIndex(tokens, grid, target.features.size).search(queries)
    rows = [
        {"point": p, "match": m, "similarity": float(value)}
        for p, m, value in zip(points.tolist(), found.tolist(), similarity, strict=True)
    ]
    if source.pixels is None or target.pixels is None:
        return rows, None
    maps = (unit(queries) @ unit(tokens).T).reshape(-1, *grid)
    path = out or drawing_path("match", source.name, target.name, *at)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_similarity(path, source.pixels, target.pixels, rows, maps)
    return rows, path


def _alike(store: FeatureReader, other: FeatureReader) -> bool:
    """Whether two stores were made in the same way, but for how images are resized."""
    one, two = (
        {k: v for k, v in s.attributes["extraction_config"].items() if k not in RESIZING} for s in (store, other)
    )
    return one == two


RESIZING = ("rule", "img_size", "seed", "noise", "encoding")


def _there(pixels: RGB | None) -> RGB:
    assert pixels is not None
    return pixels


def _numbers(text: str, count: int, flag: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != count or not all(re.fullmatch(r"\s*-?\d{1,6}\s*", part) for part in parts):
        example = ",".join(("120", "80", "200", "160")[:count])
        raise UserError(f"{flag} {text}: give {count} whole numbers of pixels with commas, such as {example}")
    return [int(part) for part in parts]


def _inside(box: tuple[int, ...], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """The tokens whose centre is in a box, [n]; in a box too small for one, the token at its middle."""
    x0, y0, x1, y1 = box
    y, x = ((p.ravel() + 0.5) * side / n for p, side, n in zip(np.indices(grid), size[::-1], grid, strict=True))
    within = np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    if len(within):
        return within
    return np.array([np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2).argmin()])
