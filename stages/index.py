"""A FAISS index of every token of a data set's features -> cache/index/<dataset>."""

import json
import shutil

from pipeline import index
from pipeline.catalog import read_table
from pipeline.engine import engine
from pipeline.store import FeatureStore
from stages import CACHE, CATALOGS, RESULTS, Params, discarded, run


def main(params: Params, dataset: str) -> None:
    store = FeatureStore(CACHE / "features" / dataset)
    settings = index.Settings(
        kind=params.index.kind,
        block=params.dataset(dataset).block,
        descriptor=params.index.descriptor,
        channels=tuple(discarded(dataset)),
    )
    sizes = {row["id"]: (row["width"], row["height"]) for row in read_table(CATALOGS / dataset, "images")}
    folder = CACHE / "index" / dataset
    shutil.rmtree(folder, ignore_errors=True)
    with engine(params.dask.engine) as workers:
        figures = index.build(store, sizes, settings, folder, workers)
    (RESULTS / dataset / "index.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    run(main)
