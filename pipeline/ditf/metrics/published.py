"""Published figures, from the table `published.csv` beside this module and from a table of the user."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from pydantic import Field, FiniteFloat, field_validator

from ditf.data.reading import read_csv
from ditf.errors import suggest
from ditf.metrics.protocols import protocols
from ditf.settings import Settings, parse


class PublishedFigure(Settings):
    """A published value of a metric: a row of `published.csv`.

    Attributes:
        source: Paper or page, such as "arXiv 2505.18584".
        table: Table or section of the source.
        row: Model and method, as tables show them.
        data: Official split, such as "SPair-71k test".
        protocol: Name of the protocol, such as "pck-box".
        metric: Name of the metric, such as "point@0.1".
        value: The metric in percent.
    """

    source: str = Field(min_length=1)
    table: str = ""
    row: str = Field(min_length=1)
    data: str = Field(min_length=1)
    protocol: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    value: FiniteFloat = Field(strict=False)

    @field_validator("protocol")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = [protocol.name for protocol in protocols()]
        if name not in known:
            raise ValueError(f"{name} is not a protocol. {suggest(name, known)}")
        return name


def published_figures(own: Path | None = None) -> list[PublishedFigure]:
    """Return the published figures that come with this package and those of the user.

    Args:
        own: Table of the user, a CSV file with the same columns. It may be missing.

    Raises:
        UserError: The user's table is not valid. The message names the line and the column.
    """
    with resources.as_file(resources.files("ditf.metrics") / "published.csv") as packaged:
        figures = _read(packaged)
    return figures + _read(own) if own is not None and own.exists() else figures


def _read(path: Path) -> list[PublishedFigure]:
    rows = read_csv(path, tuple(PublishedFigure.model_fields))
    return [parse(PublishedFigure, row, f"{path}: line {line}: ") for line, row in rows.items()]


def comparable_figures(figures: Iterable[PublishedFigure], protocol: str, data: str) -> list[PublishedFigure]:
    """Return the figures that results can be compared with.

    Args:
        figures: Published figures.
        protocol: Name of the protocol of the results.
        data: Official split of the results; empty for other data.
    """
    return [figure for figure in figures if (figure.protocol, figure.data) == (protocol, data)]


def related_figures(figures: Iterable[PublishedFigure], protocol: str, data: str) -> list[PublishedFigure]:
    """Return the figures of the same data whose protocol no task can follow, where this protocol is the closest.

    Args:
        figures: Published figures.
        protocol: Name of the protocol of the results.
        data: Official split of the results; empty for other data.
    """
    related = {other.name for other in protocols() if other.closest == protocol}
    return [figure for figure in figures if figure.protocol in related and figure.data == data]
