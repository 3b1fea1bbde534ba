"""Find the timestep, block and ensemble size that score best in a task -> results/sweeps/<sweep>/."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ditf.backbones.device import choose
from ditf.data.catalog import Catalog, texts_of
from ditf.data.subset import choose as choose_subset
from ditf.data.subset import write_subset
from ditf.data.tables import write_table
from ditf.drawing.figures import save
from ditf.features.job import key_of
from ditf.features.text import encode_prompts
from ditf.files import exclusive, fingerprint, remove_folder, write_atomically
from ditf.project.entries import pinned, sweep_jobs, workers_of
from ditf.project.paths import CATALOGS, RESULTS, staging
from ditf.project.versions import STAGE_VERSIONS, record_of_task
from ditf.sweep.run import BestSetting, best, curve, heatmaps, massive_map, sweep
from stages import Params, run

LABEL = "t = {timestep}, block {block}"


def main(params: Params, name: str) -> None:
    """Score the settings of an entry of `sweeps`, write the results, and print the best setting."""
    entry, home, output = params.sweeps[name], staging() / "sweeps" / name, RESULTS / "sweeps" / name
    if params.datasets[entry.settings.dataset].is_test:
        dataset = entry.settings.dataset
        print(f"warning: datasets.{dataset} is the split on which results are reported. Choose settings on another.")
    with exclusive(home):
        table = _score_settings(params, name, home)
    remove_folder(output)
    output.mkdir(parents=True)
    pq.write_table(table, output / "sweep.parquet")
    metric = entry.task.headline
    setting = best(table, metric)
    same = {key: setting.row[key] for key in ("ensemble_size", "descriptor")}
    rows = [row for row in table.to_pylist() if row | same == row]
    write_table(output / "plot.csv", [{"label": LABEL.format(**row), "value": row[metric]} for row in rows])
    figures = {"heatmap": heatmaps(table, metric), "massive": massive_map(table), "ensemble": curve(setting, metric)}
    for title, figure in figures.items():
        save(figure, output / f"{title}.png")
    values = {key: value for key, value in setting.row.items() if key not in ("massive", "ratio")}
    counts = {"ties": len(setting.ties), "within_interval": len(setting.close)}
    text = json.dumps(values | counts, indent=2, allow_nan=False)
    write_atomically(output / "best.json", text.encode() + b"\n")
    print(describe_best(setting, metric))


def describe_best(setting: BestSetting, metric: str) -> str:
    """Describe the best setting and settings that are as good in a few lines.

    Args:
        setting: Result of `best`.
        metric: Metric that was compared.
    """
    label = f"{LABEL}, {{descriptor}}"
    row = setting.row
    interval = "" if row["low"] is None else f", 95 % interval {row['low']:g} to {row['high']:g}"
    lines = [f"best: {label.format(**row)} ({metric} {row[metric]:g}{interval})"]
    if setting.ties:
        others = "; ".join(label.format(**tied) for tied in setting.ties[:5])
        lines.append(f"the same value: {others}{'; ...' if len(setting.ties) > 5 else ''}")
    if setting.close:
        count = len(setting.close)
        lines.append(f"within this interval: {count} more settings. A larger subset may tell them apart.")
    return "\n".join(lines)


def _score_settings(params: Params, name: str, home: Path) -> pa.Table:
    """Score every setting of a sweep. The folder `home` keeps work in progress."""
    entry = params.sweeps[name]
    settings, model = entry.settings, params.models[entry.settings.model]
    catalog = Catalog(CATALOGS / settings.dataset)
    chosen = choose_subset(catalog, settings.subset, settings.seed)
    with workers_of(params, settings.model) as client:
        subset, texts = write_subset(catalog, chosen, home / "catalog"), home / "text"
        device, dtype = choose(model.device, model.dtype)
        backbone = next(iter(entry.features.values())).backbone
        encode_prompts(texts_of(subset.rows("images")), texts, pinned(params, settings.model), backbone, dtype, device)
        jobs = sweep_jobs(params, name, subset, texts, client)
        sources = next(iter(jobs.values()))[0]
        items = [[source.id, key_of(source.pixels_sha256, source.prompt)] for source in sources]
        extraction_config = [job.extraction_config for _, job in jobs.values()]
        versions = [STAGE_VERSIONS["sweep"], record_of_task(entry.task)]
        scored_by = [entry.task.model_dump(), settings.ensemble_sizes, versions]
        folder = home / fingerprint([extraction_config, items, chosen, scored_by])
        for other in {path for path in home.iterdir() if path.is_dir()} - {folder, subset.folder, texts}:
            shutil.rmtree(other)
        return sweep(folder, entry.task, subset, jobs, sorted(settings.ensemble_sizes)[:-1], client)


if __name__ == "__main__":
    run(main, "sweeps")
