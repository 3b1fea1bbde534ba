"""A data set's folder, checked once -> catalogs/<dataset>/*.parquet."""

from pathlib import Path

from pipeline.catalog import write_tables
from pipeline.datasets import davis, folder, spair
from pipeline.engine import engine
from pipeline.params import Davis, Folder, SPair
from stages import CATALOGS, Params, run


def main(params: Params, dataset: str) -> None:
    section = params.dataset(dataset)
    root = Path(section.root)
    with engine(params.dask.engine) as workers:
        if isinstance(section, SPair):
            tables = spair.read(root, section.split, section.prompt, section.captions, workers)
        elif isinstance(section, Davis):
            tables = davis.read(root, section.year, section.split, section.prompt, workers)
        elif isinstance(section, Folder):
            tables = folder.read(root, section.prompt, section.prompts, workers)
    write_tables(CATALOGS / dataset, tables)


if __name__ == "__main__":
    run(main)
