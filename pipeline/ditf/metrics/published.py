"""Published figures, from the table `published.csv` beside this module."""

import csv
from collections.abc import Container
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class PublishedFigure:
    """A published value of a metric.

    Attributes:
        task: Type of the task.
        dataset: Type of the data set.
        split: Split of the data set; empty if the data set has none.
        units: Number of pairs, sequences or images of the official split.
        metric: Name of the metric.
        model: Model.
        descriptor: Descriptor.
        value: The metric in percent.
        source: Paper.
        differs: Difference between its protocol and that of our tasks; empty if there is none.
    """

    task: str
    dataset: str
    split: str
    units: int
    metric: str
    model: str
    descriptor: str
    value: float
    source: str
    differs: str


def published_figures() -> list[PublishedFigure]:
    """Return all published figures."""
    text = resources.files("ditf.metrics").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return [PublishedFigure(units=int(row.pop("units")), value=float(row.pop("value")), **row) for row in rows]


def comparable_figures(task: str, dataset: str, split: str, sizes: Container[object]) -> list[PublishedFigure]:
    """Return the published figures that results can be compared with.

    Args:
        task: Type of the task.
        dataset: Type of the data set.
        split: Split of the data set.
        sizes: Numbers of pairs, sequences or images in the results. They must include the official number.
    """
    return [
        figure
        for figure in published_figures()
        if (figure.task, figure.dataset, figure.split) == (task, dataset, split)
        and figure.units in sizes
        and not figure.differs
    ]
