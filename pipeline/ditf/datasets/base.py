"""The base class of data sets. Each other file of this package reads one official layout into the catalog's tables."""

from abc import abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from ditf.data.catalog import Catalog, Tables
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
        title: Name of the release and its split, such as "SPair-71k test"; empty if data cannot be recognized as it.
        rows: Numbers of rows of the catalog's tables of the complete release, such as {"pairs": 12234}.
        names: All categories of its pairs, or all its sequences; empty if they are not known.
    """

    counts: Mapping[str, int]
    images: int
    size: tuple[int, int]
    resize: Rule
    categories: int = 1
    images_per_unit: int = 2
    title: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    names: Set[str] = frozenset()

    @classmethod
    def for_probe(
        cls, training: int, validation: int, size: tuple[int, int], resize: Rule, title: str, classes: int
    ) -> "Release":
        """Return the release of a data set with images to train a probe on and images to score.

        Args:
            training: Number of images to train on.
            validation: Number of images to score.
            size: Usual width and height of an image in pixels.
            resize: Resize rule for images that a model sees.
            title: Name of the release and its split.
            classes: Number of classes.
        """
        counts = {"training images": training, "validation images": validation}
        images = training + validation
        rows = {"images": images, "classes": classes}
        return cls(counts, images, size, resize, categories=2, images_per_unit=1, title=title, rows=rows)

    def is_content_of(self, catalog: Catalog) -> bool:
        """Return whether a catalog lists this release: as many rows, and the same categories or sequences."""
        if not self.title or not all(catalog.has(table) for table in self.rows):
            return False
        if {table: len(catalog.rows(table)) for table in self.rows} != self.rows:
            return False
        table, column = ("sequences", "sequence") if catalog.has("sequences") else ("pairs", "category")
        return not self.names or {row[column] for row in catalog.rows(table)} == self.names

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

    def official_split(self, catalog: Catalog) -> str:
        """Return the official split that a catalog lists, such as "SPair-71k test"; empty for other data.

        Args:
            catalog: Catalog of this data set.
        """
        release = self.release
        return release.title if release and release.is_content_of(catalog) else ""

    @abstractmethod
    def read(self) -> Tables:
        """Read and check the data set.

        Returns:
            Rows of the tables in `ditf.data.catalog.SCHEMAS` that the data set has: `images` always; `pairs` and
            `keypoints` for correspondence; `sequences`, `frames` and `masks` for propagation.

        Raises:
            UserError: The data set has problems. The message has a line for each of the first ten.
        """
