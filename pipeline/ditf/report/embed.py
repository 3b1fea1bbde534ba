"""Embed figures and images in an HTML page."""

import base64
import io
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from ditf.drawing.figures import recolour

INK = "#010203"  # replaced by the colour of the page's text
QUALITY = 85  # of WebP, 0 to 100
EFFORT = 2  # of WebP, 0 to 6; more effort does not make photographs smaller


def svg(figure: Figure, salt: str, alt: str) -> Markup:
    """Return a figure as SVG whose text and axes have the colour of the page's text.

    Args:
        figure: The figure. Its colours are changed.
        salt: Text that makes the ids inside unique. Each figure of the page needs another one.
        alt: Description of the figure.
    """
    recolour(figure, INK)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))


def data_uri(path: Path) -> str:
    """Return an image or an animation as a data URI. WebP keeps photographs small."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(buffer, "WEBP", quality=QUALITY, method=EFFORT, save_all=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
