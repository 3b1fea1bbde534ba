"""PCK of the predictions -> results/spair/pck.json (metrics), pck.csv (all groups), ablation.csv."""

import csv
import json

import pyarrow.parquet as pq

from pipeline.pck import pck
from stages import RESULTS, Params, run


def main(params: Params) -> None:
    folder = RESULTS / "spair"
    rows = pck(pq.read_table(folder / "predictions.parquet"), params.spair.alphas)
    with (folder / "pck.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows({**row, "image": f"{row['image']:.2f}", "point": f"{row['point']:.2f}"} for row in rows)

    overall = [row for row in rows if row["group"] == "category" and row["value"] in ("All", "Mean")]
    metrics: dict[str, dict[str, float]] = {}
    for row in overall:
        for kind in ("image", "point"):
            name = f"PCK@{row['alpha']:g} per {kind}" + (" (mean of categories)" if row["value"] == "Mean" else "")
            metrics.setdefault(row["descriptor"], {})[name] = round(row[kind], 2)
    (folder / "pck.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    with (folder / "ablation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["descriptor", "alpha", "PCK per point"])
        writer.writerows(
            [row["descriptor"], row["alpha"], f"{row['point']:.2f}"] for row in overall if row["value"] == "All"
        )


if __name__ == "__main__":
    run(main)
