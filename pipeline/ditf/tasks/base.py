"""Tasks: each file takes cached features and a catalog to predictions, metrics and visualizations."""

import csv
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ditf.data.catalog import Catalog
from ditf.data.images import RGB
from ditf.errors import UserError
from ditf.features.reader import FeatureReader
from ditf.files import bytes_in
from ditf.metrics.intervals import read_units
from ditf.provenance import LIBRARIES, versions_of
from ditf.settings import Distinct, Settings, entry_of
from ditf.types import Descriptor

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure
Metrics = dict[str, dict[str, float]]
Channels = Literal["auto"] | list[Annotated[int, Field(ge=0)]]


class DescriptorSettings(Settings):
    """Which descriptors a task reads from a store.

    block: of the store's. descriptors: any of original, adaln, adaln+discard; the last one is drawn. channels: what
    adaln+discard sets to 0: "auto" for the massive channels that are found in the store, or a list.
    """

    block: int = Field(ge=0)
    descriptors: Distinct[Descriptor] = Field(default=["adaln+discard"])
    channels: Channels = "auto"

    def discarded(self, store: FeatureReader) -> list[int]:
        """The channels to discard."""
        return store.massive(self.block) if self.channels == "auto" else list(self.channels)


@dataclass(frozen=True)
class Scores:
    """What `dvc metrics` and `dvc plots` show. metrics: few, with short names, by descriptor. bars: of one plot."""

    metrics: Metrics
    bars: dict[str, float]


@dataclass(frozen=True)
class DrawingInputs:
    """What a task draws from. catalog: of its data set. read: gives the pixels of an image by its id. folder: of its
    predictions."""

    catalog: Catalog
    read: Callable[[str], RGB]
    folder: Path


class Task(Settings):
    """An entry of `tasks`: what is done with the features of a data set.

    A subclass adds two fields of settings: `predict` decides predictions, `score` only metrics. DVC tracks each apart.

    type: its registered name or dotted path. dataset: whose catalog is read. features: whose store is read.
    """

    registry: ClassVar[str] = "ditf.tasks"
    version: ClassVar[int] = 1  # raised by whoever changes results of this class and its subclasses

    type: str
    dataset: Annotated[str, entry_of("datasets")]
    features: Annotated[str, entry_of("features", "fusions")]

    predict: DescriptorSettings
    score: Settings

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric by which results are ranked."""

    @abstractmethod
    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        """Write predictions into `folder`, by the workers of `client` if there are any."""

    @abstractmethod
    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        """Score the predictions in a folder of `make_predictions`; write tables into `folder`."""

    @abstractmethod
    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Write visualizations into `folder`."""

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """What the report draws of the tables of `compute_metrics`, by title."""
        return {}

    def unit_scores(self, tables: Path, descriptor: Descriptor) -> dict[str, float]:
        """Return the headline metric of each pair, image or frame, from the tables of `compute_metrics`."""
        return read_units(tables)[descriptor][self.headline].by_unit()

    def draw_unit(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, unit: str) -> None:
        """Draw the prediction of one of `unit_scores`, in the format that the suffix of `path` names."""
        raise UserError(f"{self.type}: tasks of this type cannot draw single results")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table of `write_csv`; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV, fractions with six digits; no rows, no file."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def provenance(task: Task, store: FeatureReader) -> dict[str, Any]:
    """Return what made a task's predictions, as plain values.

    It holds nothing that differs from run to run, because DVC tracks the file.

    Args:
        task: The task.
        store: The features that it read.

    Returns:
        The store's digest, its images and bytes and what made it; the settings of the predictions, with the discarded
        channels; and library versions.
    """
    return {
        "store": store.digest,
        "extraction_config": store.attributes.get("extraction_config", store.attributes),
        "source": store.attributes.get("source", ""),
        "images": len(store),
        "bytes": bytes_in(store.path),
        "predict": task.predict.model_dump(),
        "discarded": task.predict.discarded(store),
        "versions": versions_of(LIBRARIES),
    }
