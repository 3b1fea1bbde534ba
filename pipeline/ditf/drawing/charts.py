"""Charts of tables of results, as matplotlib figures."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ditf.drawing.figures import MARK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 40
BAR = "#4878a8"


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> "Figure":
    """Return a chart of curves.

    Args:
        curves: The xs and ys of each curve by its name.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
    """
    figure = new_figure(5, 3.4)
    axes = figure.subplots()
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        style = ("-", "--", ":", "-.")[number % 4]  # so that curves also differ without colour
        axes.plot(xs, ys, style, label=name, linewidth=1.8, marker="o" if len(xs) < 12 else None, markersize=4)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


def bars(values: Mapping[str, float], x: str, totals: Collection[str] = ()) -> "Figure":
    """Return a chart of horizontal bars, each with its value.

    Args:
        values: Lengths of the bars by their names, from top to bottom. Of more than 40, only the first
            and the last 20 are drawn.
        x: Label of the horizontal axis.
        totals: Names of bars that stand for all others, such as a mean. They have another colour.
    """
    names = list(values)
    if len(names) > MOST_BARS:
        names = names[: MOST_BARS // 2] + names[-MOST_BARS // 2 :]
    figure = new_figure(5, 0.9 + 0.25 * len(names))
    axes = figure.subplots()
    colours = [MARK if name in totals else BAR for name in names]
    drawn = axes.barh(names, [values[name] for name in names], height=0.7, color=colours)
    axes.bar_label(drawn, fmt="{:.1f}", padding=3)
    axes.set(xlabel=x)
    axes.margins(x=0.15, y=0.01)
    axes.invert_yaxis()
    return figure


def grouped(rows: Sequence[Mapping[str, Any]], group: str, value: str, y: str, x: str) -> dict[str, "Figure"]:
    """Return `bars` for each group that has several values.

    Args:
        rows: Rows of a table.
        group: Column with the group.
        value: Column with the name of a bar. The bars "All" and "Mean" are totals.
        y: Column with the length of a bar.
        x: Label of the horizontal axis.
    """
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        groups.setdefault(row[group], {})[row[value]] = float(row[y])
    return {name: bars(values, x, ("All", "Mean")) for name, values in groups.items() if len(values) > 1}
