"""Score the predictions of a task -> results/<task>/metrics.json, tables/ and plot.csv."""

import json

from ditf.data.catalog import Catalog
from ditf.data.tables import write_table
from ditf.files import remove_folder, write_atomically
from ditf.project.paths import CATALOGS, RESULTS
from ditf.report.benchmark import benchmark_of, write_benchmark
from stages import Params, run


def main(params: Params, name: str) -> None:
    """Write the metrics and tables of an entry of `tasks`."""
    task, folder = params.tasks[name], RESULTS / name
    remove_folder(folder / "tables")
    catalog = Catalog(CATALOGS / task.dataset)
    scores = task.compute_metrics(catalog, folder / "predictions", folder / "tables")
    text = json.dumps(scores.metrics, indent=2, allow_nan=False)
    write_atomically(folder / "metrics.json", text.encode() + b"\n")
    write_benchmark(folder / "tables", benchmark_of(task, params.datasets[task.dataset], catalog))
    write_table(folder / "plot.csv", [{"label": label, "value": value} for label, value in scores.bars.items()])
    if not scores.bars:  # DVC requires the file even where a data set has no true answers and nothing is scored
        write_atomically(folder / "plot.csv", b"label,value\n")


if __name__ == "__main__":
    run(main, "tasks")
