"""PCK of the predictions -> results/spair/pck.json (metrics), pck.csv (all groups), and two plots' data."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.pck import pck
from stages import RESULTS, Params, run

HEADLINE = 0.1  # the alpha of the plots, where it is scored


def main(params: Params) -> None:
    folder, alphas = RESULTS / "spair", params.spair.alphas
    rows = pck(pq.read_table(folder / "predictions.parquet"), alphas)
    _write(folder / "pck.csv", rows)

    metrics: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["group"] == "category" and row["value"] in ("All", "Mean"):
            suffix = "" if row["value"] == "All" else "-mean"
            for kind in ("point", "image"):
                metrics.setdefault(row["descriptor"], {})[f"{kind}{suffix}@{row['alpha']:g}"] = round(row[kind], 2)
    (folder / "pck.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")

    alpha = HEADLINE if HEADLINE in alphas else alphas[0]
    shown = [row for row in rows if row["group"] == "category" and row["alpha"] == alpha]
    last = params.spair.descriptors[-1]
    _write(folder / "categories.csv", [row for row in shown if row["descriptor"] == last])
    _write(folder / "ablation.csv", [row for row in shown if row["value"] == "All"])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows({**row, "image": f"{row['image']:.2f}", "point": f"{row['point']:.2f}"} for row in rows)


if __name__ == "__main__":
    run(main)
