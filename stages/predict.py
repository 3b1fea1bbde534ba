"""Predictions of a task from cached features -> results/<task>/predictions/."""

import json
import shutil
import time

from ditf.data.catalog import Catalog
from ditf.errors import UserError
from ditf.features.fusion import open_store
from ditf.project.paths import CATALOGS, FEATURES, RESULTS
from ditf.tasks.base import provenance
from ditf.workers import cluster
from stages import Params, run


def main(params: Params, name: str) -> None:
    task, folder = params.tasks[name], RESULTS / name / "predictions"
    store, catalog = open_store(FEATURES / task.features), Catalog(CATALOGS / task.dataset)
    for item, row in catalog.images().items():
        if store.size(item) != (row["width"], row["height"]):
            raise UserError(f"{store.path}: its features of {item!r} are of an image of another size; run `dvc repro`")
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    with cluster(params.workers) as client:
        task.make_predictions(store, catalog, folder, client)
    record = provenance(task, store) | {"seconds": round(time.monotonic() - start, 1)}
    (RESULTS / name / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, "tasks")
