"""Drawings of matches between two images, and of similarity maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ditf.data.images import RGB
from ditf.drawing.figures import CORRECT, FONT, MARK, WRONG, new_figure, save, shorten, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float]
MOST_LETTERS = 34  # of an image's name above half a figure


@dataclass(frozen=True)
class NamedImage:
    """An image and its id.

    Attributes:
        name: The id.
        pixels: uint8 [height, width, 3].
    """

    name: str
    pixels: RGB


def draw_matches(
    path: Path, source: NamedImage, target: NamedImage, rows: Sequence[Mapping[str, Any]], alpha: float, criterion: str
) -> None:
    """Draw predicted matches on both images: solid lines and dots where correct, dashed lines and crosses where wrong.

    Args:
        path: Image file to write.
        source: The image with the keypoints.
        target: The image in which they are matched.
        rows: Predictions with the columns of `ditf.metrics.pck.PREDICTIONS`. A ring marks the true point.
        alpha: A match is correct if its error is at most `alpha` times the threshold of its row.
        criterion: When a match is correct, in words, such as "within 3 pixels".
    """
    from matplotlib.lines import Line2D

    correct = [bool(row["error"] <= alpha * row["threshold"]) for row in rows]
    points = [((row["source_x"], row["source_y"]), (row["predicted_x"], row["predicted_y"])) for row in rows]
    figure, right = _matches_figure(source, target, points, correct)
    for row in rows:
        right.plot(row["target_x"], row["target_y"], "o", mfc="none", mec="black", mew=3, markersize=11)
        right.plot(row["target_x"], row["target_y"], "o", mfc="none", mec="white", mew=1.5, markersize=11)
    handles = [
        Line2D([], [], color=CORRECT, marker="o", label=f"{sum(correct)} correct"),
        Line2D([], [], color=WRONG, linestyle="--", marker="X", label=f"{len(rows) - sum(correct)} wrong"),
        Line2D([], [], color="none", marker="o", mfc="none", mec="#7a808c", markersize=11, label="true point"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=FONT)
    figure.text(0.5, 0.42 / figure.get_figheight(), f"correct: {criterion}", ha="center", fontsize=FONT)
    figure.set_layout_engine("tight", rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    save(figure, path)


def matches_figure(source: NamedImage, target: NamedImage, points: Sequence[tuple[Point, Point]]) -> "Figure":
    """Return a figure of matches whose truth is not known.

    Args:
        source: The image with the points.
        target: The image in which they are matched.
        points: A point (x, y) of the source and its match for each line.
    """
    return _matches_figure(source, target, points, [True] * len(points))[0]


def _matches_figure(
    source: NamedImage, target: NamedImage, points: Sequence[tuple[Point, Point]], correct: Sequence[bool]
) -> "tuple[Figure, Any]":
    """Return a figure with lines between points and their matches, and the axes of the target."""
    from matplotlib.patches import ConnectionPatch

    height, width = (max(side) for side in zip(source.pixels.shape[:2], target.pixels.shape[:2], strict=True))
    figure = new_figure(8, 4 * height / width + 1.2)
    left, right = figure.subplots(1, 2)
    for axes, image in ((left, source), (right, target)):
        show(axes, image.pixels, shorten(image.name, MOST_LETTERS))
    for (start, end), good in zip(points, correct, strict=True):
        colour, line, marker = (CORRECT, "-", "o") if good else (WRONG, "--", "X")
        connection = ConnectionPatch(
            start, end, "data", "data", axesA=left, axesB=right, color=colour, linewidth=1.6, linestyle=line
        )
        figure.add_artist(connection)
        for axes, point in ((left, start), (right, end)):
            axes.plot(*point, marker, color=colour, markeredgecolor="white", markersize=8)
    return figure, right


def draw_similarity(
    path: Path, source: NamedImage, target: NamedImage, rows: Sequence[Mapping[str, Any]], maps: NDArray[np.floating]
) -> None:
    """Draw each point of the source beside its similarity map over the target, with the match marked.

    Args:
        path: Image file to write.
        source: The image with the points.
        target: The image over which similarities are drawn.
        rows: For each point: point (x, y), match (x, y), similarity.
        maps: Cosine similarities of the target's tokens to each point, float32 [points, h, w].
    """
    save(similarity_figure(source, target, rows, maps), path)


def similarity_figure(
    source: NamedImage, target: NamedImage, rows: Sequence[Mapping[str, Any]], maps: NDArray[np.floating]
) -> "Figure":
    """Return the figure of `draw_similarity`."""
    height, width = target.pixels.shape[:2]
    figure = new_figure(8, len(rows) * (3.8 * height / width + 0.6))
    for (left, right), row, similarity in zip(figure.subplots(len(rows), 2, squeeze=False), rows, maps, strict=True):
        x, y = row["point"]
        show(left, source.pixels, f"{shorten(source.name, 20)} at {x}, {y}")
        x, y = row["match"]
        show(right, target.pixels, f"{shorten(target.name, 20)} at {x}, {y}")
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        heat = right.imshow(similarity, extent=extent, alpha=0.6, cmap="inferno", interpolation="bilinear")
        right.set(xlim=extent[:2], ylim=extent[2:])
        bar = figure.colorbar(heat, ax=right, fraction=0.046, pad=0.03)
        if bar.solids is not None:
            bar.solids.set_alpha(1)
        bar.set_label(f"cosine similarity\n(match: {row['similarity']:.3f})", fontsize=FONT)
        mark_point(left, row["point"], MARK)
        mark_point(right, row["match"], MARK, "*")
    return figure


def mark_point(axes: Any, point: Sequence[float], colour: str, marker: str = "o") -> None:
    """Mark a point x, y with a symbol that stands out on any image."""
    axes.plot(*point, marker, mfc="none", mec="black", markersize=15, mew=4)
    axes.plot(*point, marker, mfc="none", mec=colour, markersize=15, mew=2)
