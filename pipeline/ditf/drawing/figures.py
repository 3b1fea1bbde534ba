"""The base of all drawings: figures, labels and files that suit light and dark pages.

PNG files have a transparent background and grey text, which is readable on white and on black. Text is large enough to
be read when a drawing is 400 pixels wide.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ditf.data.images import PNG_COMPRESSION, RGB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

INK = "#7a808c"
ON_COLOUR = "on-colour"  # mark of texts on a coloured area, which keep their colour
# Colours of Okabe and Ito, which colour-blind readers can tell apart.
CORRECT, WRONG, MARK = "#0072b2", "#d55e00", "#e69f00"
FONT = 12  # points, in a figure that is 8 inches wide
DOTS_PER_INCH = 100


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure  # here, since most commands draw nothing and would wait for it

    return Figure(figsize=(width, height), layout="tight")


def show(axes: Any, image: NDArray[Any], title: str = "", **options: Any) -> Any:
    """Draw an image without ticks, and return matplotlib's image.

    Args:
        axes: Axes of a figure.
        image: Pixels or values, [height, width] or [height, width, channels].
        title: Text above the image, which is not read as a formula.
        options: Options of `imshow`.
    """
    drawn = axes.imshow(image, **options)
    axes.axis("off")
    if title:
        axes.set_title(title, y=1.0, fontsize=FONT, parse_math=False)
    return drawn


def recolour(figure: "Figure", ink: str) -> None:
    """Give all texts, ticks and axes of a figure one colour, except texts marked with `gid=ON_COLOUR`."""
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.tick_params(colors=ink)
        for spine in axes.spines.values():
            spine.set_edgecolor(ink)
    for text in figure.findobj(Text):
        text.set(color=text.get_color() if text.get_gid() == ON_COLOUR else ink, parse_math=False)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure at 100 dots per inch; PNG and SVG with a transparent background."""
    recolour(figure, INK)
    options = {"pil_kwargs": {"compress_level": PNG_COMPRESSION}} if path.suffix == ".png" else {}
    figure.savefig(path, dpi=DOTS_PER_INCH, transparent=path.suffix in (".png", ".svg"), **options)


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items, evenly spaced from the first to the last."""
    return [items[n] for n in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


def shorten(name: str, most: int) -> str:
    """Return a name with at most `most` characters: its end, which tells images apart, after an ellipsis."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def label(image: RGB, text: str, size: int = 26) -> RGB:
    """Return a copy of an image with a text in its upper left corner.

    Args:
        image: Pixels, uint8 [height, width, 3].
        text: The label.
        size: Height of the letters in pixels.
    """
    canvas = Image.fromarray(image)
    draw, font = ImageDraw.Draw(canvas, "RGBA"), ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((6, 3), text, font=font)
    draw.rectangle((0, 0, right + left, bottom + top), fill=(0, 0, 0, 150))
    draw.text((6, 3), text, font=font, fill="white")
    return np.asarray(canvas)


def contact_sheet(
    path: Path, images: Sequence[RGB], columns: int, tile: int = 320, legend: Sequence[tuple[str, str]] = ()
) -> None:
    """Write images as a grid on a transparent background.

    Args:
        path: Image file to write.
        images: Images of any sizes, uint8 [height, width, 3].
        columns: Images in a row.
        tile: Longer side of the largest image in the grid, in pixels.
        legend: Colours and their meaning, drawn below the grid.
    """
    scale = tile / max(max(image.shape[:2]) for image in images)
    sizes = [(max(1, round(i.shape[1] * scale)), max(1, round(i.shape[0] * scale))) for i in images]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    columns = min(columns, len(images))
    rows, gap = -(-len(images) // columns), 6
    strip = 44 * -(-len(legend) // 3) if legend else 0
    sheet = Image.new("RGBA", (columns * (width + gap) - gap, rows * (height + gap) - gap + strip), (0, 0, 0, 0))
    for number, (image, size) in enumerate(zip(images, sizes, strict=True)):
        resample = Image.Resampling.NEAREST if size[0] > image.shape[1] else Image.Resampling.LANCZOS
        place = (number % columns * (width + gap), number // columns * (height + gap))
        sheet.paste(Image.fromarray(image).resize(size, resample), place)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(26)
    for number, (colour, meaning) in enumerate(legend):
        x, y = number % 3 * sheet.width // 3 + 4, sheet.height - strip + 44 * (number // 3) + 8
        draw.rectangle((x, y, x + 26, y + 26), fill=colour, outline=INK)
        draw.text((x + 36, y - 3), meaning, font=font, fill=INK)
    sheet.save(path, compress_level=PNG_COMPRESSION)
