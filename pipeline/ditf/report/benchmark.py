"""Benchmarks: the protocol and the data of results. Only results of the same benchmark are comparable."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from ditf.data.catalog import SCHEMAS, Catalog
from ditf.datasets.base import Dataset
from ditf.errors import UserError
from ditf.files import fingerprint, write_atomically
from ditf.settings import Settings, parse
from ditf.tasks.base import Task

FILE = "benchmark.json"  # in the folder of a task's tables
# Columns of catalogs that do not change a score: places of files, prompts, and the hash of decoded pixels, which
# differs between decoders.
IGNORED = ("path", "prompt", "pixels_sha256")
SHOWN_DIGITS = 8  # of a digest, in titles


class Benchmark(Settings):
    """The protocol and the data of a result.

    Attributes:
        protocol: Name of the protocol.
        rules: The rules of the protocol.
        dataset: Type of the data set.
        split: Split of the data set; empty if the data set has none.
        official: Official split, such as "SPair-71k test", if the annotations are complete; empty for other data.
        images: Number of images.
        digest: Hash of the images and annotations. Equal digests mean equal data.
    """

    protocol: str
    rules: str
    dataset: str
    split: str
    official: str
    images: int = Field(ge=0)
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        """Protocol and data. Results with equal keys are comparable."""
        return self.protocol, self.official or self.digest

    @property
    def title(self) -> str:
        """Data and protocol in words."""
        own = f"Own data ({self.dataset.rpartition('.')[2]}, {self.images} images, {self.digest[:SHOWN_DIGITS]})"
        return f"{self.official or own}, protocol {self.protocol}"


def benchmark_of(task: Task, dataset: Dataset, catalog: Catalog) -> Benchmark:
    """Return the benchmark of a task.

    Args:
        task: The task.
        dataset: Its data set.
        catalog: Catalog of the data set.
    """
    tables: Mapping[str, list[dict[str, Any]]] = {
        table: [
            {column: _plain(value) for column, value in row.items() if column not in IGNORED}
            for row in catalog.rows(table)
        ]
        for table in SCHEMAS
        if table != "warnings" and catalog.has(table)
    }
    protocol = task.protocol(catalog)
    return Benchmark(
        protocol=protocol.name,
        rules=protocol.rules,
        dataset=dataset.type,
        split=str(getattr(dataset, "split", "")),
        official=dataset.official_split(catalog),
        images=len(tables["images"]),
        digest=fingerprint(tables),
    )


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def write_benchmark(tables: Path, benchmark: Benchmark) -> None:
    """Write a benchmark into the folder of a task's tables."""
    write_atomically(tables / FILE, (benchmark.model_dump_json(indent=2) + "\n").encode())


def read_benchmark(tables: Path) -> Benchmark:
    """Read the benchmark from the folder of a task's tables.

    Raises:
        UserError: The file is missing or not valid.
    """
    path = tables / FILE
    try:
        return parse(Benchmark, json.loads(path.read_text(encoding="utf-8")), f"{path}: ")
    except (OSError, ValueError, UserError):
        raise UserError(f"{path}: missing or damaged. Run `dvc repro -f score@{tables.parent.name}`.") from None
