"""The commands `ditf verify`, `ditf repair` and `ditf plan`: are the stores whole, and what will they cost."""

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pipeline.catalog import read_table
from pipeline.errors import UserError
from pipeline.params import DATASETS, Params
from pipeline.repair import attributes_of, check_made_by, rebuild_layout, rebuild_shards
from pipeline.staging import exclusive
from pipeline.store import FeatureStore
from pipeline.writer import lay_out
from stages import CACHE, CATALOGS, HUB_FLUX, STAGING

LINKED = (Path(".dvc/cache"), STAGING)  # where DVC and the staging hold the same files


def folders(dataset: str | None) -> dict[str, Path]:
    """Where the feature stores are, by data set; or the one of `dataset`."""
    if dataset is not None and dataset not in DATASETS:
        raise UserError(f"{dataset!r} is no data set; use {', '.join(DATASETS)}")
    there = [name for name in DATASETS if (CACHE / "features" / name).is_dir() and dataset in (None, name)]
    if not there:
        raise UserError(f"{CACHE / 'features' / (dataset or '')}: no features; run `dvc repro`")
    return {name: CACHE / "features" / name for name in there}


def verify(dataset: str | None) -> None:
    """Read every chunk of the stores against its checksum. Raises `UserError` that names every damaged item."""
    lines = []
    for name, path in folders(dataset).items():
        try:
            store = FeatureStore(path)
        except UserError as error:
            lines.append(str(error))
            continue
        damaged = damage_of(name, store)
        for item, arrays in damaged.items():
            named = ", ".join(f"block{block}/{array}" for block, array in arrays)
            lines.append(f"{store.path}: item {item!r} is damaged: {named}; run `ditf repair` to compute it again")
        print(f"{store.path}: {len(store) - len(damaged)} of {len(store)} items are whole")
    if lines:
        raise UserError("\n".join(lines))


def repair(params: Params, dataset: str | None) -> None:
    """Compute the damaged items of the stores again, and write their shards anew; before that, what lists them."""
    for name, path in folders(dataset).items():
        try:
            store = FeatureStore(path)
        except UserError:
            print(f"{path}: files of metadata written anew: {_repair_layout(params, name, path)}")
            store = FeatureStore(path)
        damaged = damage_of(name, store)
        if not damaged:
            print(f"{path}: all items are whole")
            continue
        from pipeline.extraction import make_store
        from stages.features import wanted

        sources, job = wanted(params, name)
        check_made_by(store, job.facts, {s.id: s.item(job.settings).key for s in sources})
        folder = STAGING / "repair" / name
        with exclusive(STAGING / "features" / name):
            shutil.rmtree(folder, ignore_errors=True)
            fresh = make_store(folder, [s for s in sources if s.id in damaged], job, params.dask.engine)
            count = rebuild_shards(store, damaged, FeatureStore(fresh), LINKED)
            shutil.rmtree(folder)
        print(f"{store.path}: {len(damaged)} items computed again, {count} shards written")
        verify(name)


def _repair_layout(params: Params, name: str, path: Path) -> int:
    """Write a store's metadata and tables anew, from the catalog and the parameters; returns the number of files."""
    from pipeline.backbones.flux import transformer_config
    from pipeline.cost import width_of
    from pipeline.extraction import LIBRARIES
    from stages.features import wanted

    sources, job = wanted(params, name)
    items = [source.item(job.settings) for source in sources]
    channels = width_of(transformer_config(job.model.component("transformer", ())))
    made_with = {n: v for n, v in attributes_of(path).items() if n in LIBRARIES}
    with exclusive(STAGING / "features" / name), tempfile.TemporaryDirectory() as folder:
        fresh = [Path(folder, "now"), Path(folder, "earlier")]
        for store, versions in zip(fresh, ({}, made_with), strict=True):
            lay_out(store, items, job.settings.blocks, {**job.attributes, **versions}, job.encoding, channels)
        return rebuild_layout(path, fresh, LINKED)


def damage_of(name: str, store: FeatureStore) -> dict[str, list[tuple[int, str]]]:
    """The damaged arrays of a store by item."""
    return {item: arrays for item, arrays in tqdm(store.damage(), name, len(store), unit="image", delay=1) if arrays}


def plan(params: Params, tflops: float, images: int | None, size: tuple[int, int] | None) -> None:
    """Print what the data sets of the parameters cost, or `images` images of `size` (width, height)."""
    from pipeline.backbones.flux import transformer_config
    from pipeline.cost import FLUX1_DEV, Cost, estimate
    from pipeline.images import TOKEN, model_size
    from pipeline.model import pin
    from stages.features import RULES

    source = params.model.source
    if source == HUB_FLUX:
        config = FLUX1_DEV
    else:
        config = transformer_config(pin(source, params.model.revision).component("transformer", ()))
    number_bytes = 4 if params.model.dtype == "float32" else 2
    table = Table(
        title=f"{source}, at {tflops:g} TFLOP/s", title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left"
    )
    table.add_column("")
    columns = []
    for dataset in DATASETS:
        section = params.dataset(dataset)
        sizes = [size] * images if images and size else _sizes(params, dataset)
        grids = (model_size(RULES[dataset], section.img_size, *wh) for wh in sizes)
        tokens = [w // TOKEN * (h // TOKEN) for w, h in grids]
        draws = section.ensemble_size, params.model.batch_size
        columns.append(estimate(config, tokens, section.blocks, *draws, section.encoding, number_bytes))
        table.add_column(dataset, justify="right")
    rows: dict[str, Callable[[Cost], str]] = {
        "images": lambda c: f"{c.images:,}",
        "tokens": lambda c: f"{c.tokens:,}",
        "arithmetic of the blocks": lambda c: f"{c.flops / 1e15:,.3g} PFLOP",
        "time on one worker": lambda c: _hours(c.flops / tflops / 1e12),
        "features on disk": lambda c: _bytes(c.feature_bytes),
        "their files": lambda c: f"{c.files:,}",
        "index (kind auto)": lambda c: _bytes(c.index_bytes),
        f"memory of a worker ({8 * number_bytes} bits)": lambda c: _bytes(c.memory),
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(column) for column in columns))
    Console().print(table)


def _sizes(params: Params, dataset: str) -> list[tuple[int, int]]:
    """(width, height) of each image: from the catalog, or else from the data set itself."""
    from stages.catalog import tables

    folder = CATALOGS / dataset
    rows = read_table(folder, "images") if folder.is_dir() else tables(params, dataset)["images"]
    return [(row["width"], row["height"]) for row in rows]


def _bytes(count: float) -> str:
    power = min(5, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:.3g} {('B', 'KB', 'MB', 'GB', 'TB', 'PB')[power]}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.3g} s"
