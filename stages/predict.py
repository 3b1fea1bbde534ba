"""Predictions of a task from cached features -> results/<task>/predictions/."""

import shutil

from ditf.catalog import Catalog
from ditf.commands.project import CATALOGS, FEATURES, RESULTS
from ditf.errors import UserError
from ditf.features.fusion import open_store
from ditf.workers import cluster
from stages import Params, run


def main(params: Params, name: str) -> None:
    task, folder = params.tasks[name], RESULTS / name / "predictions"
    store, catalog = open_store(FEATURES / task.features), Catalog(CATALOGS / task.dataset)
    for item, row in catalog.images().items():
        if store.size(item) != (row["width"], row["height"]):
            raise UserError(f"{store.path}: its features of {item!r} are of an image of another size; run `dvc repro`")
    shutil.rmtree(folder, ignore_errors=True)
    with cluster(params.workers) as client:
        task.make_predictions(store, catalog, folder, client)


if __name__ == "__main__":
    run(main, "tasks")
