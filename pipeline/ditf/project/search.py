"""Search and match images, and draw the results, for the commands `ditf search` and `ditf match`."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ditf.config.params import Params
from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.reader import ImageFeatures
from ditf.files import warning_if_unwritable
from ditf.matching import images
from ditf.project.library import ImageLibrary, Query, match_task, search_task
from ditf.project.paths import drawing_path
from ditf.retrieval.search import FeatureIndex

DEFAULT_HITS = 10
DRAWN_HITS = 23  # largest number of hits in a drawing

Rows = list[dict[str, Any]]


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
    exclude = None if request.all_hits else query.item
    if len(index.store) - (exclude is not None) == 0:
        raise UserError(f"{index.store.path}: has no image besides {query.name}. Add --all to search in this image.")
    place: tuple[int, ...] = ()
    if request.at is not None:
        place = _point(request.at, query)
    if request.box is not None:
        place = _box(request.box, query)
    return place, find_similar(index, query.features, place, request.k, request.all_hits, exclude)


def find_similar(
    index: FeatureIndex,
    features: ImageFeatures,
    place: Sequence[int] = (),
    k: int | None = None,
    all_hits: bool = False,
    exclude: str | None = None,
) -> Rows:
    """Find places that are similar to a point or a region of an image, or images that are similar to the image.

    Args:
        index: The index to search.
        features: Features of the query image.
        place: Point (x, y) or region (x0, y0, x1, y1) of the query image in pixels. By default the entire image.
        k: Number of hits. By default 10. If fewer are available, all are found.
        all_hits: Whether an image may have several hits.
        exclude: Id of an image that is left out, such as the query image.

    Returns:
        Hits with image, point, box and similarity, best first.
    """
    settings, images = index.settings, len(index.store) - (exclude is not None)
    count = DEFAULT_HITS if k is None else k
    with threadpool_limits(1, user_api="blas"):  # products of few vectors are faster in one thread
        if len(place) == 2:
            vector = features.descriptors_at(np.array([place]), settings.descriptor, settings.channels)[0]
            limit = len(index) if all_hits else images
            hits = index.search(vector, min(count, limit), per_image=not all_hits, exclude=exclude)
            return [asdict(hit) for hit in hits]
        tokens = unit(features.descriptors(settings.descriptor, settings.channels))
        if len(place) == 4:
            inside = _inside(place, features.grid, features.size)
            rows, columns = np.divmod(inside, features.grid[1])
            shape = (len(np.unique(rows)), len(np.unique(columns)))
            regions = index.search_regions(tokens[inside].mean(0), shape, min(count, images), not all_hits, exclude)
            return [asdict(hit) for hit in regions]
        similar = index.search_images(tokens.mean(0), min(count, images), exclude)
        return [{"image": image, "point": None, "box": None, "similarity": value} for image, value in similar]


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
    points = [_point(text, source) for text in request.at]
    arguments = (source.features, target.features, points, settings.descriptor, settings.channels)
    rows = [
        {
            "point": [row["source_x"], row["source_y"]],
            "match": [row["target_x"], row["target_y"]],
            "similarity": row["similarity"],
        }
        for row in images.match(*arguments).to_pylist()
    ]
    if source.pixels is None or target.pixels is None:
        return rows, None
    from ditf.drawing.matches import NamedImage, draw_similarity  # here, because matplotlib takes long to import

    path = out or drawing_path("match", source.name, target.name, *request.at)
    with warning_if_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = NamedImage(source.name, source.pixels), NamedImage(target.name, target.pixels)
        draw_similarity(path, *drawn, rows, images.similarity(*arguments))
        return rows, path
    return rows, None


def _point(text: str, query: Query) -> tuple[int, int]:
    """Parse a point "x,y" inside an image."""
    (x, y), (width, height) = _numbers(text, 2, "--at"), query.features.size
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"--at {text}: outside {query.name}, which is {width}x{height} pixels. "
            f"Give x from 0 to {width - 1} and y from 0 to {height - 1}."
        )
    return x, y


def _box(text: str, query: Query) -> tuple[int, int, int, int]:
    """Parse a box "x0,y0,x1,y1" inside an image."""
    (x0, y0, x1, y1), (width, height) = _numbers(text, 4, "--box"), query.features.size
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"--box {text}: not a box inside {query.name}, which is {width}x{height} pixels. "
            f"Give 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}."
        )
    return x0, y0, x1, y1


def _numbers(text: str, count: int, flag: str) -> list[int]:
    """Parse a number of coordinates separated by commas. `flag` is named in the error."""
    fields = text.split(",")
    if len(fields) != count or not all(re.fullmatch(r"\s*-?\d{1,6}\s*", field) for field in fields):
        example = ",".join(("120", "80", "200", "160")[:count])
        raise UserError(f"{flag} {text}: give {count} whole numbers of pixels with commas, such as {example}.")
    return [int(field) for field in fields]


def _inside(box: Sequence[int], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
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
