"""Which timestep, block and ensemble size serve a task best -> results/sweeps/<sweep>/."""

import json
import shutil

import pyarrow.parquet as pq
import torch

from ditf.catalog import Catalog, texts_of
from ditf.commands.project import CATALOGS, RESULTS, pinned, staging, sweep_jobs
from ditf.device import choose
from ditf.features.extractor import key_of
from ditf.features.text import encode_prompts
from ditf.files import exclusive, fingerprint
from ditf.subset import choose as choose_subset
from ditf.subset import write_subset
from ditf.sweep import best, curve, heatmaps, massive_map, sweep
from ditf.tasks import write_csv
from ditf.workers import cluster
from stages import Params, run


def main(params: Params, name: str) -> None:
    entry, output = params.sweeps[name], RESULTS / "sweeps" / name
    s = entry.settings
    model, catalog = params.models[s.model], Catalog(CATALOGS / s.dataset)
    if params.datasets[s.dataset].is_test:
        print(f"warning: datasets.{s.dataset} is the split on which results are reported; choose on another one")
    chosen = choose_subset(catalog, s.subset, s.seed)
    home = staging() / "sweeps" / name
    with cluster(params.workers, gpus=model.device != "cpu" and torch.cuda.is_available()) as client:
        part = write_subset(catalog, chosen, home / "catalog")
        device, dtype = choose(model.device, model.dtype)
        first = next(iter(entry.features.values()))
        encode_prompts(
            texts_of(part.rows("images")), home / "text", pinned(params, s.model), first.backbone, dtype, device
        )
        jobs = sweep_jobs(params, name, part, home / "text", client)
        sources = next(iter(jobs.values()))[0]
        items = [[source.id, key_of(source.sha256, source.prompt)] for source in sources]
        made_by = [job.made_by for _, job in jobs.values()]
        folder = home / fingerprint([made_by, items, chosen, s.ensemble_sizes, entry.task.model_dump()])
        with exclusive(folder):
            table = sweep(folder, entry.task, part, jobs, sorted(s.ensemble_sizes)[:-1], client)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    pq.write_table(table, output / "sweep.parquet")
    metric = entry.task.headline
    found = best(table, metric)
    largest = [row for row in table.to_pylist() if row["ensemble_size"] == max(s.ensemble_sizes)]
    shown = [row for row in largest if row["descriptor"] == found.row["descriptor"]]
    label = "t = {timestep}, block {block}"
    write_csv(output / "plot.csv", [{"label": label.format(**row), "value": row[metric]} for row in shown])
    heatmaps(table, metric).savefig(output / "heatmap.png", dpi=100)
    massive_map(table).savefig(output / "massive.png", dpi=100)
    curve(found, metric).savefig(output / "ensemble.png", dpi=100)
    text = json.dumps(
        {key: value for key, value in found.row.items() if key not in ("massive", "ratio")}, indent=2, allow_nan=False
    )
    (output / "best.json").write_text(text + "\n", encoding="utf-8")
    print("best: t = {timestep}, block {block}, {descriptor}".format(**found.row), f"({metric} {found.row[metric]:g})")


if __name__ == "__main__":
    run(main, "sweeps")
