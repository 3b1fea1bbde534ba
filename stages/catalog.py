"""A data set's folder, checked once -> catalogs/<dataset>/*.parquet."""

from pathlib import Path
from typing import Any

from pipeline.catalog import write_tables
from pipeline.datasets import davis, folder, spair
from pipeline.engine import engine
from pipeline.params import Davis, Folder, SPair
from stages import CATALOGS, Params, run


def main(params: Params, dataset: str) -> None:
    write_tables(CATALOGS / dataset, tables(params, dataset))


def tables(params: Params, dataset: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a data set's tables, read from its folder and checked."""
    section = params.dataset(dataset)
    root = Path(section.root)
    with engine(params.dask.engine) as workers:
        if isinstance(section, SPair):
            return spair.read(root, section.split, section.prompt, section.captions, workers)
        if isinstance(section, Davis):
            return davis.read(root, section.year, section.split, section.prompt, workers)
        assert isinstance(section, Folder)
        return folder.read(root, section.prompt, section.prompts, workers)


if __name__ == "__main__":
    run(main)
