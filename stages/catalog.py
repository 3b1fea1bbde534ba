"""A data set's folder, checked once -> catalogs/<dataset>/*.parquet."""

from pathlib import Path

from pipeline.catalog import write_tables
from pipeline.datasets import davis, spair
from stages import CATALOGS, Params, run


def main(params: Params, dataset: str) -> None:
    if dataset == "spair":
        s = params.spair
        tables = spair.read(Path(s.root), s.split, s.prompt, s.captions)
    else:
        d = params.davis
        tables = davis.read(Path(d.root), d.year, d.split, d.prompt)
    write_tables(CATALOGS / dataset, tables)


if __name__ == "__main__":
    run(main)
