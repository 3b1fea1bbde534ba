"""Visualizations: what they show, and that it can be seen."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ditf.data.masks import PALETTE
from ditf.drawing import charts
from ditf.drawing.figures import INK, ON_COLOUR, contact_sheet, label, new_figure, recolour, save
from ditf.drawing.masks import object_legend, overlay
from ditf.drawing.matches import NamedImage, draw_matches, draw_similarity
from ditf.drawing.places import draw_places

GREY = np.full((60, 80, 3), 100, np.uint8)


@pytest.fixture(autouse=True)
def _text_in_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep text as text in SVG, so that tests can read it."""
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")


def prediction(error: float) -> dict[str, Any]:
    """Return a prediction with a threshold of 10 pixels."""
    points = {f"{kind}_{axis}": 20.0 for kind in ("source", "predicted", "target") for axis in "xy"}
    return {"error": error, "threshold": 10.0, **points}


def pixels(path: Path) -> NDArray[np.uint8]:
    """Return an image as RGBA."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("name", ["cat/$1", r"cat/$\no$ formula", "cat [edited] [/b]"])
def test_names_are_text_and_no_formulas(name: str, tmp_path: Path) -> None:
    image = NamedImage(name, GREY)
    place = {"rank": 1, "image": name, "similarity": 0.5, "box": (1, 1, 4, 4)}
    draw_places(tmp_path / "places.svg", image, (2, 2), [place], lambda _: GREY)
    draw_matches(tmp_path / "matches.svg", image, image, [], 0.1, "anything")
    for drawn in ("places", "matches"):
        assert name[-10:] in (tmp_path / f"{drawn}.svg").read_text()


def test_matches_name_both_images_the_threshold_and_what_is_right(tmp_path: Path) -> None:
    rows = [prediction(0.5), prediction(0.9), prediction(9)]
    images = NamedImage("cat/one", GREY), NamedImage("cat/two", GREY)
    draw_matches(tmp_path / "matches.svg", *images, rows, 0.1, "error at most 0.1 x box = 1.0 pixels")
    text = (tmp_path / "matches.svg").read_text()
    for shown in ("cat/one", "cat/two", "2 correct", "1 wrong", "true point", "0.1 x box = 1.0 pixels"):
        assert shown in text
    assert "stroke-dasharray" in text  # wrong matches differ by more than their colour
    draw_matches(tmp_path / "matches.png", *images, rows, 0.1, "")
    drawn = pixels(tmp_path / "matches.png")
    assert drawn.shape[1] == 800
    assert (drawn[..., 3] == 0).any() and len(np.unique(drawn.reshape(-1, 4), axis=0)) > 50  # for pages of any colour


def test_similarity_maps_have_a_colour_bar_and_both_names(tmp_path: Path) -> None:
    images = NamedImage("cat/one", GREY), NamedImage("cat/two", GREY)
    row = {"point": (10, 20), "match": (30, 40), "similarity": 0.875}
    draw_similarity(tmp_path / "maps.svg", *images, [row], np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4))
    text = (tmp_path / "maps.svg").read_text()
    for shown in ("cat/one at 10, 20", "cat/two at 30, 40", "cosine similarity", "match: 0.875"):
        assert shown in text


@pytest.mark.parametrize(("places", "cells"), [(1, 1), (2, 2), (7, 6), (10, 9), (23, 12)])
def test_search_results_have_no_empty_cells(places: int, cells: int, tmp_path: Path) -> None:
    rows = [{"rank": n, "image": f"image{n:02d}", "similarity": 0.5, "box": None} for n in range(1, places + 1)]
    draw_places(tmp_path / "places.svg", NamedImage("the-query", GREY), (), rows, lambda _: GREY)
    text = (tmp_path / "places.svg").read_text()
    assert "the-query" in text and text.count("<image ") == cells + 1
    assert f"{cells}. image{cells:02d}" in text


def test_objects_are_translucent_with_a_contour_and_the_true_outline() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 10:40] = 1
    truth = np.zeros_like(mask)
    truth[10:40, 20:60] = 1
    shown = overlay(GREY, mask, truth, 0.5)
    colour = np.array(PALETTE[3:6])
    np.testing.assert_array_equal(shown[50:, :], GREY[50:, :])
    assert np.abs(shown[25, 15] - (50 + colour / 2)).max() <= 0.5  # inside
    np.testing.assert_array_equal(shown[25, 10], colour)  # contour
    np.testing.assert_array_equal(shown[25, 59], (255, 255, 255))  # true outline
    np.testing.assert_array_equal(GREY, np.full((60, 80, 3), 100))


def test_sheets_have_labels_a_legend_and_no_background(tmp_path: Path) -> None:
    assert not np.array_equal(label(GREY, "frame 00001"), GREY)
    legend = object_legend(2, True)
    assert [name for _, name in legend] == ["object 1", "object 2", "true outline"]
    contact_sheet(tmp_path / "sheet.png", [GREY] * 3, 2, 160, legend)
    drawn = pixels(tmp_path / "sheet.png")
    assert drawn.shape[:2] == (2 * 120 + 6 + 44, 2 * 160 + 6)
    assert (drawn[130:240, 200:, 3] == 0).all()  # the empty cell
    for colour, _ in legend:
        rgb = (255, 255, 255) if colour == "white" else tuple(bytes.fromhex(colour[1:]))
        assert (drawn[-44:, :, :3] == rgb).all(-1).any()


def test_totals_have_another_colour_than_categories(tmp_path: Path) -> None:
    rows = [{"group": "category", "value": name, "point": "50"} for name in ("cat", "dog", "Mean")]
    figure = charts.grouped(rows, "group", "value", "point", "PCK")["category"]
    cat, dog, mean = (bar.get_facecolor() for bar in figure.axes[0].patches)
    assert cat == dog != mean
    save(figure, tmp_path / "bars.png")
    assert (pixels(tmp_path / "bars.png")[0, 0] == (255, 255, 255, 0)).all()


def test_texts_on_a_coloured_area_keep_their_colour() -> None:
    figure = new_figure(2, 2)
    axes = figure.subplots()
    label, value = axes.set_title("title"), axes.text(0, 0, "7", color="white", gid=ON_COLOUR)
    recolour(figure, INK)
    assert (label.get_color(), value.get_color()) == (INK, "white")
