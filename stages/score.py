"""Metrics of a task's predictions -> results/<task>/metrics.json and tables/."""

import json

from ditf.catalog import Catalog
from ditf.commands.project import CATALOGS, RESULTS

from stages import Params, run


def main(params: Params, name: str) -> None:
    task, folder = params.tasks[name], RESULTS / name
    metrics = task.compute_metrics(Catalog(CATALOGS / task.dataset), folder / "predictions", folder / "tables")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, "tasks")
