"""Metrics of a task's predictions -> results/<task>/metrics.json, tables/ and plot.csv."""

import json

from ditf.data.catalog import Catalog
from ditf.project.paths import CATALOGS, RESULTS
from ditf.tasks.base import write_csv
from stages import Params, run


def main(params: Params, name: str) -> None:
    task, folder = params.tasks[name], RESULTS / name
    scores = task.compute_metrics(Catalog(CATALOGS / task.dataset), folder / "predictions", folder / "tables")
    text = json.dumps(scores.metrics, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    # DVC requires both outputs, even where a data set has no true answers and nothing is scored.
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    write_csv(folder / "plot.csv", [{"label": label, "value": value} for label, value in scores.bars.items()])
    if not scores.bars:
        (folder / "plot.csv").write_text("label,value\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, "tasks")
