"""Drawing of search results: the image that was searched with, and the places that resemble it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditf.data.images import RGB
from ditf.drawing.figures import CORRECT, FONT, MARK, new_figure, save, shorten, show
from ditf.drawing.matches import NamedImage, mark_point

COLUMNS, MOST_ROWS = 3, 4


def draw_places(
    path: Path,
    query: NamedImage,
    region: Sequence[float],
    places: Sequence[Mapping[str, Any]],
    read: Callable[[str], RGB],
) -> None:
    """Draw the query beside the best places, in complete rows of three.

    Args:
        path: Image file to write.
        query: The image that was searched with.
        region: The point x, y or the box x0, y0, x1, y1 that was searched for; empty for the whole image.
        places: Results in their order: rank, image, similarity, box (x0, y0, x1, y1) or None.
        read: Returns the pixels of an image by its id.
    """
    columns = min(COLUMNS, len(places))
    rows = min(MOST_ROWS, len(places) // columns)
    images = [read(place["image"]) for place in places[: rows * columns]]
    height = max(image.shape[0] / image.shape[1] for image in (*images, query.pixels))
    figure = new_figure(2 * (columns + 1.2), max(rows * (1.9 * height + 0.7), 2.3 * height + 0.6))
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.2, *[1] * columns])
    axes = figure.add_subplot(grid[:, 0])
    show(axes, query.pixels, f"query\n{shorten(query.name, 18)}")
    _mark(axes, region, MARK)
    axes.set_anchor("N")
    for number, (place, image) in enumerate(zip(places, images, strict=False)):
        axes = figure.add_subplot(grid[number // columns, number % columns + 1])
        show(axes, image)
        title = f"{place['rank']}. {shorten(place['image'], 16)}\n{place['similarity']:.3f}"
        axes.set_title(title, y=1.0, fontsize=FONT - 1, parse_math=False)
        _mark(axes, place["box"] or (), CORRECT)
    save(figure, path)


def _mark(axes: Any, region: Sequence[float], colour: str) -> None:
    """Mark a point x, y or a box x0, y0, x1, y1; nothing for an empty region."""
    from matplotlib.patches import Rectangle

    if len(region) == 2:
        mark_point(axes, region, colour)
    elif len(region) == 4:
        x0, y0, x1, y1 = region
        for edge, line in (("white", 4), (colour, 2)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=edge, lw=line))
