"""Find the timestep, block and ensemble size at which the features of a model score best in a task.

The same passes give all blocks and ensemble sizes. Only the features of one timestep are on disk at a time.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ditf.data.catalog import Catalog
from ditf.drawing.figures import ON_COLOUR, new_figure
from ditf.errors import UserError
from ditf.features.extract import extract
from ditf.features.job import ExtractionJob, ImageSource
from ditf.features.store import FeatureStore
from ditf.files import write_atomically
from ditf.metrics.intervals import interval, read_units
from ditf.tasks.base import Task

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

Row = dict[str, Any]
SETTING = ("timestep", "block", "ensemble_size", "descriptor")  # columns that identify a row


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
        folder: Working folder. An interrupted sweep continues there.
        task: Task that scores features. Each block replaces its own block.
        catalog: Catalog of the images.
        jobs: Images and settings of the extraction at each timestep.
        smaller_ensembles: Ensemble sizes below those of the jobs.
        client: Client of the workers, or None to work in this process.

    Returns:
        A row per timestep, block, ensemble size and descriptor, with the task's metrics. Columns `low` and `high` are
        the 95 % interval of the headline metric. `massive` lists the massive channels. `ratio` is the largest magnitude
        of a channel, divided by the median magnitude.

    Raises:
        UserError: The images have no ground truth, or an extraction fails.
    """
    rows: list[Row] = []
    with tqdm(desc="sweep", total=len(jobs), unit="timestep") as bar:
        for timestep, (sources, job) in jobs.items():
            scores, work = folder / f"t{timestep}.json", folder / f"t{timestep}"
            if not scores.exists():
                extraction = extract(work, sources, job, client, smaller_ensembles=smaller_ensembles)
                stores = map(FeatureStore, extraction.paths)
                scored = [row for store in stores for row in _score(store, task, catalog, work, client)]
                write_atomically(scores, json.dumps([{"timestep": timestep, **row} for row in scored]).encode())
            shutil.rmtree(work, ignore_errors=True)
            rows += json.loads(scores.read_bytes())
            bar.update()
    return pa.Table.from_pylist(rows)


def _score(store: FeatureStore, task: Task, catalog: Catalog, folder: Path, client: "Client | None") -> Iterator[Row]:
    """Yield a row for every block and descriptor of a store."""
    size = store.attributes["extraction_config"]["ensemble_size"]
    for block in store.blocks:
        task_at_block = task.model_copy(update={"predict": task.predict.model_copy(update={"block": block})})
        predictions, tables = folder / "predictions", folder / "tables"
        shutil.rmtree(predictions, ignore_errors=True)
        task_at_block.make_predictions(store, catalog, predictions, client)
        scores = task_at_block.compute_metrics(catalog, predictions, tables)
        if not scores.metrics:
            raise UserError(f"{catalog.folder}: has no true answers to score. Sweep over a data set that has some.")
        channels = {"massive": store.massive(block), "ratio": float(store.statistics(block).ratio.max())}
        units = read_units(tables)
        for descriptor, metrics in scores.metrics.items():
            low, high = interval(units[descriptor][task.headline]) or (None, None)
            setting = {"block": block, "ensemble_size": size, "descriptor": descriptor}
            yield {**setting, **metrics, "low": low, "high": high, **channels}


@dataclass(frozen=True)
class BestSetting:
    """The best setting of a sweep.

    Attributes:
        row: Row of the setting.
        curve: Rows of the same setting at all ensemble sizes, in ascending order.
        ties: Rows with the same value of the metric.
        close: Rows with a smaller value inside the 95 % interval of the best.
    """

    row: Row
    curve: list[Row]
    ties: list[Row]
    close: list[Row]


def best(table: pa.Table, metric: str) -> BestSetting:
    """Find the best setting of the largest ensemble.

    Args:
        table: Result of `sweep`.
        metric: Metric to compare. Greater is better.

    Returns:
        The first of the best settings, and settings that are as good.
    """
    rows: list[Row] = table.to_pylist()
    largest = max(row["ensemble_size"] for row in rows)
    candidates = [row for row in rows if row["ensemble_size"] == largest]
    row = max(candidates, key=lambda row: row[metric])
    low = row.get("low")
    curve = [other for other in rows if all(other[key] == row[key] for key in SETTING if key != "ensemble_size")]
    return BestSetting(
        row,
        curve=sorted(curve, key=lambda other: other["ensemble_size"]),
        ties=[other for other in candidates if other is not row and other[metric] == row[metric]],
        close=[other for other in candidates if low is not None and low <= other[metric] < row[metric]],
    )


def heatmaps(table: pa.Table, metric: str) -> "Figure":
    """Draw a metric over timesteps and blocks at the largest ensemble, in one map per descriptor.

    The greatest value is bold.

    Args:
        table: Result of `sweep`.
        metric: Metric to draw.
    """
    return _maps({row["descriptor"]: f"{row['descriptor']}: {metric}" for row in table.to_pylist()}, table, metric)


def massive_map(table: pa.Table) -> "Figure":
    """Draw the column `ratio` of a sweep over timesteps and blocks at the largest ensemble."""
    return _maps({table["descriptor"][0].as_py(): "largest channel, times the median"}, table, "ratio")


def _maps(titles: Mapping[str, str], table: pa.Table, metric: str) -> "Figure":
    """Draw a map for each descriptor that has a title."""
    rows: list[Row] = table.to_pylist()
    largest = max(row["ensemble_size"] for row in rows)
    rows = [row for row in rows if row["ensemble_size"] == largest and row["descriptor"] in titles]
    timesteps, blocks = (sorted({row[key] for row in rows}) for key in ("timestep", "block"))
    top = max(row[metric] for row in rows)
    low, high = min(row[metric] for row in rows), top
    width = max(3.0, 0.5 * len(blocks) + 1.5)
    figure = new_figure(width * len(titles), max(2.6, 0.4 * len(timesteps) + 1.6))
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, (descriptor, title) in zip(panels, titles.items(), strict=True):
        values = np.full((len(timesteps), len(blocks)), np.nan)
        for row in rows:
            if row["descriptor"] == descriptor:
                values[timesteps.index(row["timestep"]), blocks.index(row["block"])] = row[metric]
        axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            colour = "black" if value > (low + high) / 2 else "white"
            weight = "bold" if value == top else None
            axes.text(x, y, f"{value:.3g}", color=colour, ha="center", va="center", weight=weight, gid=ON_COLOUR)
        axes.set_xticks(range(len(blocks)), blocks)
        axes.set_yticks(range(len(timesteps)), timesteps)
        axes.set(xlabel="block", ylabel="timestep", title=title)
    return figure


def curve(setting: BestSetting, metric: str) -> "Figure":
    """Draw a metric of the best setting over ensemble sizes, with its 95 % interval."""
    figure = new_figure(4, 3)
    axes = figure.subplots()
    sizes, values = ([row[key] for row in setting.curve] for key in ("ensemble_size", metric))
    axes.plot(sizes, values, "o-")
    with_interval = [row for row in setting.curve if row.get("low") is not None]
    if with_interval:
        low, high, widths = ([row[key] for row in with_interval] for key in ("low", "high", "ensemble_size"))
        axes.fill_between(widths, low, high, alpha=0.2, label="95 % interval")
        axes.legend()
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, sizes)
    title = "t = {timestep}, block {block}, {descriptor}".format(**setting.row)
    axes.set(xlabel="ensemble size", ylabel=metric, title=title)
    return figure
