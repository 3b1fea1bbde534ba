"""The base class of data sets. Each other file of this package reads one official layout into the catalog's tables."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ditf.data.catalog import Tables
from ditf.settings import Distinct, Settings
from ditf.types import Rule

Subset = Annotated[int, Field(ge=1)] | Distinct[str]


@dataclass(frozen=True)
class Release:
    """Sizes of the official release of a data set.

    Attributes:
        counts: Numbers that `Dataset.counts` finds in a complete release, such as {"pairs": 12234}.
        images: Number of images that are read; a bound where the exact number is not published.
        size: Usual width and height of an image in pixels.
        resize: Rule by which images are resized for a model.
        categories: Number of categories. A subset has as many units of each category.
        images_per_unit: Largest number of images of a pair, sequence or other unit of a subset.
    """

    counts: Mapping[str, int]
    images: int
    size: tuple[int, int]
    resize: Rule
    categories: int = 1
    images_per_unit: int = 2

    def images_in(self, subset: Subset | None) -> int:
        """Return the largest number of images that a subset has.

        Args:
            subset: Setting of the data set; None for all of it.
        """
        if subset is None:
            return self.images
        units = subset * self.categories if isinstance(subset, int) else len(subset)
        return min(self.images, units * self.images_per_unit)


class Dataset(Settings):
    """An entry of `datasets`: where a data set is and which part of it is read.

    A subclass adds its own settings as fields and implements `read`.

    Attributes:
        version: Version of the results. Raise it in a change that alters results of this class and its subclasses.
        type: A file of `ditf.datasets`, or `package.module.Class` for a class from elsewhere.
        root: The data set's folder.
        subset: Number of pairs or images per category, or of sequences, that are read; or a list of their names. null
            for all. Results of a subset are not comparable with published ones.
    """

    registry: ClassVar[str] = "ditf.datasets"
    version: ClassVar[int] = 1

    type: str
    root: str = Field(min_length=1)
    subset: Subset | None = None

    @property
    def is_test(self) -> bool:
        """Return whether results are reported on this part, so that no setting should be chosen on it."""
        return getattr(self, "split", "test") == "test"

    @property
    def release(self) -> Release | None:
        """Sizes of the official release, or None if there is none or its sizes are not known."""
        return None

    def counts(self) -> dict[str, int]:
        """Count what `release` lists, without reading images. A folder that is missing counts as 0."""
        return {}

    @abstractmethod
    def read(self) -> Tables:
        """Read and check the data set.

        Returns:
            Rows of the tables in `ditf.data.catalog.SCHEMAS` that the data set has: `images` always; `pairs` and
            `keypoints` for correspondence; `sequences`, `frames` and `masks` for propagation.

        Raises:
            UserError: The data set has problems. The message has a line for each of the first ten.
        """
