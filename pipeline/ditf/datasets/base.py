"""The base class of data sets. Each other file of this package reads one official layout into the catalog's tables."""

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field

from ditf.data.catalog import Tables
from ditf.settings import Settings


class Dataset(Settings):
    """An entry of `datasets`: where a data set is and which part of it is read.

    A subclass adds its own settings as fields and implements `read`.

    Attributes:
        version: Version of the results. Raise it in a change that alters results of this class and its subclasses.
        type: A file of `ditf.datasets`, or `package.module.Class` for a class from elsewhere.
        root: The data set's folder.
    """

    registry: ClassVar[str] = "ditf.datasets"
    version: ClassVar[int] = 1

    type: str
    root: str = Field(min_length=1)

    @property
    def is_test(self) -> bool:
        """Return whether results are reported on this part, so that no setting should be chosen on it."""
        return getattr(self, "split", "test") == "test"

    @abstractmethod
    def read(self) -> Tables:
        """Read and check the data set.

        Returns:
            Rows of the tables in `ditf.data.catalog.SCHEMAS` that the data set has: `images` always; `pairs` and
            `keypoints` for correspondence; `sequences`, `frames` and `masks` for propagation.

        Raises:
            UserError: The data set has problems. The message has a line for each of the first ten.
        """
