"""Figures and pictures as they stand inside a page."""

import base64
import io
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

INK = "#010203"  # stands for the text's colour, which the page decides
QUALITY, EFFORT = 85, 2  # of pictures; with more effort they are no smaller


def svg(figure: Figure, salt: str) -> Markup:
    """A figure as SVG whose text and axes have the colour of the page's text.

    salt: makes the names inside it unlike those of other figures of the page.
    """
    for axes in figure.axes:
        axes.tick_params(colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_edgecolor(INK)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set(color=INK, parse_math=False)
    found = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False}):
        figure.savefig(found, format="svg", transparent=True, metadata={"Date": None})
    page = found.getvalue()
    return Markup(page[page.index("<svg") :].replace(INK, "currentColor"))


def data_uri(path: Path) -> str:
    """A picture or an animation as an address that holds it, as WebP: of photographs a tenth of a PNG's bytes."""
    found = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(found, "WEBP", quality=QUALITY, method=EFFORT, save_all=True)
    return f"data:image/webp;base64,{base64.b64encode(found.getvalue()).decode()}"
