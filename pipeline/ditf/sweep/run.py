"""A sweep over timesteps, blocks and ensemble sizes: which features of a model serve a task best?

All blocks and ensemble sizes come from the same passes. Features of one timestep at a time are on disk; they are
scored and removed.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ditf.data.catalog import Catalog
from ditf.drawing.charts import new_figure
from ditf.errors import UserError
from ditf.features.extract import extract
from ditf.features.extractor import ExtractionJob, ImageSource
from ditf.features.store import FeatureStore
from ditf.files import write_atomically
from ditf.tasks.base import Task

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
KEYS = ("timestep", "block", "ensemble_size", "descriptor")


def sweep(
    folder: Path,
    task: Task,
    catalog: Catalog,
    jobs: Mapping[int, tuple[Sequence[ImageSource], ExtractionJob]],
    smaller_ensembles: Sequence[int],
    client: "Client | None" = None,
) -> pa.Table:
    """Score every block, ensemble size and descriptor at every timestep.

    Args:
        folder: to work in; a sweep that was interrupted goes on there.
        task: how features are scored; its block is replaced.
        catalog: of the images.
        jobs: by timestep, what is extracted.
        smaller_ensembles: ensemble sizes smaller than the jobs' own.
        client: of the workers; None for this process.

    Returns:
        A row per timestep, block, ensemble size and descriptor, with the task's metrics; `massive`, the massive
        channels that were found there; and `ratio`, of the largest channel's magnitude to the median channel's.
    """
    rows: Rows = []
    with tqdm(desc="sweep", total=len(jobs), unit="timestep") as bar:
        for timestep, (sources, job) in jobs.items():
            done, own = folder / f"t{timestep}.json", folder / f"t{timestep}"
            if not done.exists():
                found = extract(own, sources, job, client, smaller_ensembles=smaller_ensembles)
                scored = [row for path in found.paths for row in _score(FeatureStore(path), task, catalog, own, client)]
                write_atomically(done, json.dumps([{"timestep": timestep, **row} for row in scored]).encode())
            shutil.rmtree(own, ignore_errors=True)
            rows += json.loads(done.read_bytes())
            bar.update()
    return pa.Table.from_pylist(rows)


def _score(store: FeatureStore, task: Task, catalog: Catalog, folder: Path, client: "Client | None") -> Rows:
    """The metrics of every block of a store."""
    rows = []
    for block in store.blocks:
        own = task.model_copy(update={"predict": task.predict.model_copy(update={"block": block})})
        predictions = folder / "predictions"
        shutil.rmtree(predictions, ignore_errors=True)
        own.make_predictions(store, catalog, predictions, client)
        scores = own.compute_metrics(catalog, predictions, folder / "tables")
        size, largest = (
            store.attributes["extraction_config"]["ensemble_size"],
            float(store.statistics(block).ratio.max()),
        )
        if not scores.metrics:
            raise UserError(f"{catalog.folder}: has no true answers to score. Sweep over a data set that has some.")
        for descriptor, metrics in scores.metrics.items():
            head = {"block": block, "ensemble_size": size, "descriptor": descriptor}
            rows.append({**head, **metrics, "massive": store.massive(block), "ratio": largest})
    return rows


@dataclass(frozen=True)
class BestSetting:
    """The best setting of a sweep. row: its row. curve: of its rows by ensemble size, ascending."""

    row: dict[str, Any]
    curve: Rows


def best(table: pa.Table, metric: str) -> BestSetting:
    """The setting of greatest `metric` among those of the largest ensemble; of equals the first."""
    rows: Rows = table.to_pylist()
    largest = max(row["ensemble_size"] for row in rows)
    row = max((row for row in rows if row["ensemble_size"] == largest), key=lambda row: row[metric])
    same = [other for other in rows if all(other[key] == row[key] for key in KEYS if key != "ensemble_size")]
    return BestSetting(row, sorted(same, key=lambda other: other["ensemble_size"]))


def heatmaps(table: pa.Table, metric: str) -> "Figure":
    """`metric` over timesteps and blocks at the largest ensemble, a map per descriptor, the best setting in bold."""
    return _maps({row["descriptor"]: f"{row['descriptor']}: {metric}" for row in table.to_pylist()}, table, metric)


def massive_map(table: pa.Table) -> "Figure":
    """How far the largest channel stands out, over timesteps and blocks at the largest ensemble."""
    return _maps({table["descriptor"][0].as_py(): "largest channel, times the median"}, table, "ratio")


def _maps(titles: Mapping[str, str], table: pa.Table, metric: str) -> "Figure":
    """A map for each descriptor that has a title."""
    rows: Rows = table.to_pylist()
    largest = max(row["ensemble_size"] for row in rows)
    rows = [row for row in rows if row["ensemble_size"] == largest and row["descriptor"] in titles]
    axis = {key: sorted({row[key] for row in rows}) for key in ("timestep", "block")}
    top = best(table, metric).row
    low, high = min(row[metric] for row in rows), max(row[metric] for row in rows)
    width = max(3.0, 0.5 * len(axis["block"]) + 1.5)
    figure = new_figure(width * len(titles), max(2.6, 0.4 * len(axis["timestep"]) + 1.6))
    for axes, (descriptor, title) in zip(
        figure.subplots(1, len(titles), squeeze=False)[0], titles.items(), strict=True
    ):
        values = np.full((len(axis["timestep"]), len(axis["block"])), np.nan)
        for row in rows:
            if row["descriptor"] == descriptor:
                values[axis["timestep"].index(row["timestep"]), axis["block"].index(row["block"])] = row[metric]
        axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            colour = "black" if value > (low + high) / 2 else "white"
            own = descriptor == top["descriptor"]
            chosen = own and (axis["timestep"][y], axis["block"][x]) == (top["timestep"], top["block"])
            axes.text(x, y, f"{value:.3g}", color=colour, ha="center", va="center", weight="bold" if chosen else None)
        axes.set_xticks(range(len(axis["block"])), axis["block"])
        axes.set_yticks(range(len(axis["timestep"])), axis["timestep"])
        axes.set(xlabel="block", ylabel="timestep", title=title)
    return figure


def curve(found: BestSetting, metric: str) -> "Figure":
    """`metric` of the best setting over ensemble sizes."""
    figure = new_figure(4, 3)
    axes = figure.subplots()
    sizes = [row["ensemble_size"] for row in found.curve]
    axes.plot(sizes, [row[metric] for row in found.curve], "o-")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, sizes)
    axes.set(
        xlabel="ensemble size", ylabel=metric, title="t = {timestep}, block {block}, {descriptor}".format(**found.row)
    )
    return figure
