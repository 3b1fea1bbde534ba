"""The commands `ditf search` and `ditf match`: places in cached features that look like a point, a region, an image."""

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.catalog import read_table
from pipeline.datasets.folder import PLAIN
from pipeline.descriptors import unit
from pipeline.errors import UserError
from pipeline.images import RGB, read_rgb
from pipeline.model import Model
from pipeline.params import DATASETS, Params
from pipeline.staging import fingerprint
from pipeline.store import FeatureStore
from pipeline.writer import is_complete
from stages import CACHE, CATALOGS, MODEL, RESULTS, discarded

if TYPE_CHECKING:
    from pipeline.search import FeatureIndex

QUERIES = CACHE / "queries"


@dataclass(frozen=True)
class Image:
    """An image to search with: its pixels, and where its features are."""

    name: str
    pixels: RGB
    store: FeatureStore
    item: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def point(self, text: str) -> tuple[int, int]:
        """The pixel that "x,y" names. Raises `UserError` outside the image."""
        x, y = _numbers(text, 2, "--at")
        if not (0 <= x < self.size[0] and 0 <= y < self.size[1]):
            raise UserError(f"--at {text}: outside {self.name}, which is {self.size[0]}x{self.size[1]} pixels")
        return x, y

    def box(self, text: str) -> tuple[int, int, int, int]:
        """The box that "x0,y0,x1,y1" names. Raises `UserError` outside the image, or for an empty one."""
        x0, y0, x1, y1 = _numbers(text, 4, "--box")
        if not (0 <= x0 < x1 <= self.size[0] and 0 <= y0 < y1 <= self.size[1]):
            raise UserError(
                f"--box {text}: not a box inside {self.name}, which is {self.size[0]}x{self.size[1]} pixels"
            )
        return x0, y0, x1, y1


class Library:
    """A data set's features and where its images lie."""

    def __init__(self, params: Params, dataset: str) -> None:
        self.params, self.dataset, self.section = params, dataset, params.dataset(dataset)
        self.store = FeatureStore(CACHE / "features" / dataset)
        self._rows = {row["id"]: row for row in read_table(CATALOGS / dataset, "images")}
        if missing := set(self.store.ids) - set(self._rows):
            raise UserError(f"{self.store.path}: {min(missing)} is not in the catalog; run `dvc repro`")

    @classmethod
    def holding(cls, params: Params, dataset: str | None, names: list[str]) -> "Library":
        """The data set named, or else the one that holds the images `names`, or else the only one with features."""
        if dataset is not None:
            return cls(params, dataset)
        there = [name for name in DATASETS if (CACHE / "features" / name).is_dir()]
        if not there:
            raise UserError(f"{CACHE / 'features'}: no features yet; run `dvc repro`")
        found = [name for name in there if set(names) & set(FeatureStore(CACHE / "features" / name).ids)]
        if not found and not any(Path(name).is_file() for name in names):
            raise UserError(f"{names[0]}: neither a file nor an image of {', '.join(there)}")
        choice = found or there
        if len(choice) > 1:
            raise UserError(f"--dataset: {names[0]!r} does not tell which; name one of {', '.join(choice)}")
        return cls(params, choice[0])

    def index(self) -> "FeatureIndex":
        from pipeline.search import FeatureIndex

        return FeatureIndex(CACHE / "index" / self.dataset, self.store)

    def pixels(self, item: str) -> RGB:
        """An image of the data set, [height, width, 3]."""
        return read_rgb(Path(self.section.root) / self._rows[item]["path"])

    def image(self, name: str, prompt: str | None) -> Image:
        """The image of the data set with the id `name`, or the file of this name."""
        if name in self._rows:
            return Image(name, self.pixels(name), self.store, name)
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: neither a file nor an image of {self.dataset} (such as {self.store.ids[0]})")
        pixels = read_rgb(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for item, row in self._rows.items():
            if row["sha256"] == digest and prompt in (None, row["prompt"]):
                return Image(path.name, pixels, self.store, item)
        text = self.section.prompt.replace("{category}", PLAIN) if prompt is None else prompt
        folder = QUERIES / fingerprint(self.store.attributes) / fingerprint({"sha256": digest, "prompt": text})
        if not is_complete(folder):
            from pipeline.extraction import Source
            from pipeline.query import extract_query

            source = Source(name, path, digest, pixels.shape[1], pixels.shape[0], text)
            model = self.params.model
            pinned = Model.load(MODEL, model.source)
            extract_query(source, self.store, folder, pinned, model.device, model.batch_size)
        store = FeatureStore(folder / "store.zarr")
        return Image(path.name, pixels, store, store.ids[0])


def search(
    params: Params,
    dataset: str | None,
    name: str,
    at: str | None,
    box: str | None,
    k: int,
    per_image: bool,
    prompt: str | None,
    out: Path | None,
) -> tuple[list[dict[str, Any]], Path]:
    """What `ditf search` does: the results as rows, and the contact sheet's path."""
    from pipeline.correspondence import descriptors_at
    from pipeline.pictures import draw_places

    if at is not None and box is not None:
        raise UserError("--at and --box: give one of them, or none for the whole image")
    library = Library.holding(params, dataset, [name])
    index, image = library.index(), library.image(name, prompt)
    s = index.settings
    mark: tuple[int, ...] = ()
    if at is not None:
        mark = image.point(at)
        points = np.array([mark])
        query = descriptors_at(image.store, s.block, image.item, image.size, points, s.descriptor, s.channels)[0]
    else:
        tokens = unit(image.store.descriptors(s.block, image.item, s.descriptor, s.channels))
        if box is not None:
            mark = image.box(box)
            tokens = tokens[_inside(mark, image.store.grid(image.item), image.size)]
        query = tokens.mean(0)
    if at is None and box is None:
        images = index.search_images(query, k)
        rows = [{"image": found, "point": None, "box": None, "similarity": value} for found, value in images]
    else:
        rows = [asdict(place) for place in index.search(query, k, per_image)]
    rows = [{"rank": rank, **row} for rank, row in enumerate(rows, 1)]
    path = out or _picture("search", image.name, at or box)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_places(path, image.pixels, mark, rows, library.pixels)
    return rows, path


def match(
    params: Params, dataset: str | None, names: tuple[str, str], at: list[str], prompt: str | None, out: Path | None
) -> tuple[list[dict[str, Any]], Path]:
    """What `ditf match` does: the results as rows, and the picture's path."""
    from pipeline.correspondence import descriptors_at
    from pipeline.matching import Target
    from pipeline.pictures import draw_similarity

    library = Library.holding(params, dataset, list(names))
    source, target = (library.image(name, prompt) for name in names)
    points = np.array([source.point(text) for text in at])
    block, descriptor = library.section.block, params.index.descriptor
    channels = discarded(library.dataset)
    queries = descriptors_at(source.store, block, source.item, source.size, points, descriptor, channels)
    tokens, grid = target.store.descriptors(block, target.item, descriptor, channels), target.store.grid(target.item)
    found, similarity = Target(tokens, grid, target.size).match(queries)
    rows = [
        {"point": p, "match": m, "similarity": float(s)}
        for p, m, s in zip(points.tolist(), found.tolist(), similarity, strict=True)
    ]
    maps = (unit(queries) @ unit(tokens).T).reshape(-1, *grid)
    path = out or _picture("match", source.name, target.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_similarity(path, source.pixels, target.pixels, rows, maps)
    return rows, path


def _picture(kind: str, *names: str | None) -> Path:
    """Where the picture of a search or a match goes, unless the user says where."""
    return RESULTS / kind / ("_".join(re.sub(r"[^\w.-]+", "-", name) for name in names if name) + ".png")


def _numbers(text: str, count: int, flag: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != count or not all(re.fullmatch(r"\s*-?\d{1,6}\s*", part) for part in parts):
        example = ",".join(("120", "80", "200", "160")[:count])
        raise UserError(f"{flag} {text}: wanted {count} whole numbers of pixels with commas, such as {example}")
    return [int(part) for part in parts]


def _inside(box: tuple[int, ...], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """The tokens whose centre lies in a box, [n]; in a box too small for one, the token at its middle."""
    x0, y0, x1, y1 = box
    y, x = ((p.ravel() + 0.5) * side / n for p, side, n in zip(np.indices(grid), size[::-1], grid, strict=True))
    within = np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    if len(within):
        return within
    return np.array([np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2).argmin()])
