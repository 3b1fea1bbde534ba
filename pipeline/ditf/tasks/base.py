"""The base class of tasks. A task turns cached features and a catalog into predictions, metrics and visualizations."""

from abc import abstractmethod
from collections.abc import Callable
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
from ditf.metrics.protocols import Protocol
from ditf.provenance import LIBRARIES, versions_of
from ditf.settings import Distinct, Settings, entry_of
from ditf.types import Descriptor

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure
Metrics = dict[str, dict[str, float]]
Channels = Literal["auto"] | list[Annotated[int, Field(ge=0)]]


class DescriptorSettings(Settings):
    """Settings of the descriptors that a task reads from a store.

    Attributes:
        block: A captured block of the store.
        descriptors: Descriptors to evaluate. The last one is drawn.
        channels: Channels that adaln+discard sets to 0: "auto" for the massive channels of the store, or a list.
    """

    block: int = Field(ge=0)
    descriptors: Distinct[Descriptor] = Field(default=["adaln+discard"])
    channels: Channels = "auto"

    def discarded(self, store: FeatureReader) -> list[int]:
        """Return the channels to discard."""
        return store.massive(self.block) if self.channels == "auto" else list(self.channels)


@dataclass(frozen=True)
class Scores:
    """Scores that `dvc metrics` and `dvc plots` show.

    Attributes:
        metrics: A few metrics with short names, by descriptor.
        bars: Lengths of the bars of one plot, by their names.
    """

    metrics: Metrics
    bars: dict[str, float]


@dataclass(frozen=True)
class DrawingInputs:
    """Inputs of the visualizations of a task.

    Attributes:
        catalog: Catalog of the task's data set.
        read: Function that returns the pixels of an image by its id.
        folder: Folder of the task's predictions.
    """

    catalog: Catalog
    read: Callable[[str], RGB]
    folder: Path


class Task(Settings):
    """An entry of `tasks`: an evaluation of the features of a data set.

    A subclass narrows the types of the settings `predict` and `score`. DVC tracks the two separately.

    Attributes:
        version: Version of the results. Raise it in a change that alters results of this class and its subclasses.
        type: Name of a built-in task, or "package.module.Class".
        dataset: The entry of `datasets` whose catalog is read.
        features: The entry of `features` or `fusions` whose store is read.
        predict: Settings that predictions depend on.
        score: Settings that only metrics depend on.
    """

    registry: ClassVar[str] = "ditf.tasks"
    version: ClassVar[int] = 2

    type: str
    dataset: Annotated[str, entry_of("datasets")]
    features: Annotated[str, entry_of("features", "fusions")]

    predict: DescriptorSettings
    score: Settings

    @property
    @abstractmethod
    def headline(self) -> str:
        """Name of the metric that ranks results."""

    def protocol(self, catalog: Catalog) -> Protocol:
        """Return the protocol of the metrics. Results are compared only under protocols of the same name.

        Args:
            catalog: Catalog of the data set.
        """
        return Protocol(self.type, "The metrics of this task.")

    @abstractmethod
    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        """Write predictions.

        Args:
            store: The features.
            catalog: Catalog of the data set.
            folder: Folder to write into.
            client: Dask client whose workers compute, or None to compute in this process.
        """

    @abstractmethod
    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        """Score predictions and write tables.

        Args:
            catalog: Catalog of the data set.
            predictions: Folder that `make_predictions` wrote.
            folder: Folder for the tables.
        """

    @abstractmethod
    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Write visualizations.

        Args:
            store: The features.
            predicted: Predictions, catalog and images.
            folder: Folder to write into.
        """

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """Return charts for the report by title, from the tables of `compute_metrics`."""
        return {}

    def unit_scores(self, tables: Path, descriptor: Descriptor) -> dict[str, float]:
        """Return the headline metric of each pair, image or frame by its name.

        Args:
            tables: Folder of the tables that `compute_metrics` wrote.
            descriptor: Descriptor whose results are read.
        """
        return read_units(tables)[descriptor][self.headline].by_unit()

    def draw_unit(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, unit: str) -> None:
        """Draw the prediction for one pair, image or frame.

        Args:
            path: File to write. Its suffix chooses the format.
            predicted: Predictions, catalog and images.
            descriptor: Descriptor of the prediction.
            unit: Name of the pair, image or frame, as in `unit_scores`.

        Raises:
            UserError: Tasks of this type cannot draw single results.
        """
        raise UserError(f"{self.type}: tasks of this type cannot draw single results")

    def provenance(self, store: FeatureReader) -> dict[str, Any]:
        """Describe how the predictions were made, as plain values.

        DVC tracks the result, so that it contains nothing that changes from run to run.

        Args:
            store: The features that the task read.

        Returns:
            The store's digest, settings, source, number of images and size in bytes; the settings of the predictions
            and the discarded channels; and library versions.
        """
        return {
            "store": store.digest,
            "extraction_config": store.attributes.get("extraction_config", store.attributes),
            "source": store.attributes.get("source", ""),
            "images": len(store),
            "bytes": bytes_in(store.path),
            "predict": self.predict.model_dump(),
            "discarded": self.predict.discarded(store),
            "versions": versions_of(LIBRARIES),
        }
