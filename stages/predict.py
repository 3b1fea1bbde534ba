"""Make the predictions of a task from cached features -> results/<task>/predictions/ and run.json."""

import json
import time

from ditf.data.catalog import Catalog
from ditf.errors import UserError
from ditf.features.fusion import open_store
from ditf.files import remove_folder, write_atomically
from ditf.project.paths import CATALOGS, FEATURES, RESULTS
from ditf.workers import cluster
from stages import Params, record_run, run


def main(params: Params, name: str) -> None:
    """Write the predictions of an entry of `tasks`, with their provenance."""
    task, folder = params.tasks[name], RESULTS / name / "predictions"
    store, catalog = open_store(FEATURES / task.features), Catalog(CATALOGS / task.dataset)
    for item, row in catalog.images().items():
        if store.size(item) != (row["width"], row["height"]):
            raise UserError(f"{store.path}: its features of {item!r} are of an image of another size. Run `dvc repro`.")
    remove_folder(folder)
    start = time.monotonic()
    with cluster(params.workers) as client:
        task.make_predictions(store, catalog, folder, client)
    write_atomically(RESULTS / name / "run.json", json.dumps(task.provenance(store), indent=1).encode() + b"\n")
    record_run("predict", name, start)


if __name__ == "__main__":
    run(main, "tasks")
