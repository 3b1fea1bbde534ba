"""Charts of tables of results, and images side by side, as matplotlib figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ditf.data.images import PNG_COMPRESSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 40


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # here, since most commands draw nothing and would wait for it

    return Figure(figsize=(width, height), layout="tight")


def show(axes: Any, image: NDArray[Any], title: str = "", **options: Any) -> None:
    """Draw an image, with `options` of `imshow`, without ticks."""
    axes.imshow(image, **options)
    axes.axis("off")
    if title:
        axes.set_title(title, y=1.0, fontsize=9, parse_math=False)  # to find a place for it takes as long as the rest


def save(figure: "Figure", path: Path) -> None:
    """Write a figure, at 100 dots per inch."""
    figure.savefig(path, dpi=100, pil_kwargs={"compress_level": PNG_COMPRESSION} if path.suffix == ".png" else {})


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> "Figure":
    """Curves by their name, each as xs and ys, with the names of the axes."""
    figure = new_figure(5, 3.4)
    axes = figure.subplots()
    for name, (xs, ys) in curves.items():
        axes.plot(xs, ys, label=name, linewidth=1.8, marker="o" if len(xs) < 12 else None, markersize=4)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


def bars(values: Mapping[str, float], x: str) -> "Figure":
    """Horizontal bars by name in the order given, each with its value; of more than 40, the first and the last 20."""
    names = list(values)
    if len(names) > MOST_BARS:
        names = names[: MOST_BARS // 2] + names[-MOST_BARS // 2 :]
    figure = new_figure(5, 0.9 + 0.25 * len(names))
    axes = figure.subplots()
    axes.bar_label(axes.barh(names, [values[name] for name in names], height=0.7), fmt=_short, padding=3)
    axes.set(xlabel=x)
    axes.margins(x=0.15, y=0.01)
    axes.invert_yaxis()
    return figure


def grouped(rows: Sequence[Mapping[str, Any]], group: str, value: str, y: str, x: str) -> dict[str, "Figure"]:
    """`bars` of each group that has several. group, value, y: columns of the group, the bar's name, its length."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        groups.setdefault(row[group], {})[row[value]] = float(row[y])
    return {name: bars(values, x) for name, values in groups.items() if len(values) > 1}


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
