"""The command `ditf plan`: the cost of an extraction, computed from the sizes of the model and the images."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ditf.backbones.cost import ModelSize
from ditf.backbones.source import Model, ModelSettings, is_hub
from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry, Sweep
from ditf.data.catalog import Catalog, write_catalog
from ditf.data.images import model_size
from ditf.data.subset import choose, keep_subset, write_subset
from ditf.errors import UserError
from ditf.features.store_writer import MOST_FILES, MOST_SHARED
from ditf.project.paths import CATALOGS
from ditf.project.speed import has_gpu, measured_tflops
from ditf.retrieval.index import AXES, FLAT_TOKENS
from ditf.types import Rule

GPU_RESERVE = 1e9  # bytes of a GPU that CUDA and the allocator take
GPUS = (8, 12, 16, 24, 40, 80)  # memory of usual GPUs, GB
BYTES = {"float16": 2, "float32": 4, "int8": 1}
QUANTIZED = {"quantize: int8": 1.0, "quantize: nf4": 0.56}  # bytes per weight of a block, with its scales
OPTIONS = ("", *QUANTIZED, "offload: blocks")
UNKNOWN = "unknown"
COPIES = 25.0  # assumed speed of copies to a GPU, GB/s


@dataclass(frozen=True)
class EntryCost:
    """Cost of an extraction.

    Attributes:
        images: Number of images.
        tokens: Tokens of the first block, over all images.
        flops: FLOPs of the blocks, over all images and noise samples.
        feature_bytes: Bytes of the features on disk.
        files: Number of files that hold tokens.
        index_bytes: Bytes of a search index of kind auto.
        memory: Bytes of a GPU that holds the model and one batch, for each option of the model's entry; "" is none.
        text_bytes: Bytes of a GPU that holds the text encoders.
        block_bytes: Bytes of a block, which `offload: blocks` copies to the GPU.
        block_flops: FLOPs of a block for one batch, which run while the next block is copied.
    """

    images: int
    tokens: int
    flops: float
    feature_bytes: int
    files: int
    index_bytes: int
    memory: dict[str, float]
    text_bytes: float
    block_bytes: float
    block_flops: float


@dataclass(frozen=True)
class Column:
    """A column of the plan: an entry of `features` or `sweeps`.

    Attributes:
        images: Number of images.
        options: Options of the model's entry that its family supports; "" is none.
        tflops: Speed of a worker in TFLOP/s.
        cost: The cost; None if the sizes of the model are unknown.
    """

    images: int
    options: tuple[str, ...] = ("",)
    tflops: float = 1.0
    cost: EntryCost | None = None


@dataclass(frozen=True)
class ImageSizes:
    """The images of a data set, before they are resized for a model.

    Attributes:
        counts: Number of images by (width, height) in pixels.
        resize: Rule that resizes images in the benchmark of the data set.
    """

    counts: Mapping[tuple[int, int], int]
    resize: Rule


@dataclass(frozen=True)
class Plan:
    """The cost of every entry of features and sweeps, as text.

    Attributes:
        notes: Assumptions behind the costs.
        rows: Cells by column name. The column "" labels the rows, and there is a column for each entry.
    """

    notes: list[str]
    rows: list[dict[str, str]]


def estimate(
    sizes: ModelSize, tokens: Mapping[int, int], entry: FeaturesEntry, batch_size: int, weight_bytes: int
) -> EntryCost:
    """Return the cost of an extraction.

    Args:
        sizes: Sizes of the model.
        tokens: Number of images by their number of tokens.
        entry: Settings of the features.
        batch_size: Noise samples per forward pass.
        weight_bytes: Bytes of a weight.
    """
    images, blocks = sum(tokens.values()), len(entry.backbone.blocks)
    all_tokens, largest = sum(n * count for n, count in tokens.items()), max(tokens)
    totals = [all_tokens * (sizes.stride // stride) ** 2 for stride, _ in sizes.shapes]
    total, channels = totals[0], sizes.shapes[0][1]
    samples = entry.backbone.ensemble_size
    batch = min(samples, batch_size)
    shared = min(MOST_SHARED, math.ceil(images * blocks / MOST_FILES))
    token_bytes = channels * 4 if total <= FLAT_TOKENS else min(AXES, channels) + 8
    inside = sizes.weights - sizes.resident_weights
    encoding = largest * sizes.stride**2 * sizes.autoencoder_activations
    passing = batch * (largest + sizes.text_tokens) * sizes.activations
    outside = (sizes.resident_weights + sizes.autoencoder_weights + max(encoding, passing)) * weight_bytes
    exact, quantized = sizes.exact_weights * weight_bytes, inside - sizes.exact_weights
    memory = {"": outside + inside * weight_bytes}
    memory |= {option: outside + exact + quantized * size for option, size in QUANTIZED.items()}
    memory["offload: blocks"] = outside + min(2 * sizes.block_weights, inside) * weight_bytes
    return EntryCost(
        images=images,
        tokens=total,
        flops=samples * sum(sizes.flops_of(n) * count for n, count in tokens.items()),
        feature_bytes=sum(n * c for n, (_, c) in zip(totals, sizes.shapes, strict=True)) * BYTES[entry.encoding],
        files=blocks * -(-images // shared),
        index_bytes=total * token_bytes + images * 4 * channels,
        memory=memory,
        text_bytes=sizes.text_weights * weight_bytes,
        block_bytes=sizes.block_weights * weight_bytes,
        block_flops=batch * sizes.flops_of(largest) * sizes.block_weights / max(inside, sizes.block_weights),
    )


def plan(
    params: Params,
    tflops: float | None = None,
    images: int | None = None,
    size: tuple[int, int] | None = None,
    gigabytes: float = COPIES,
) -> Plan:
    """Compute the cost of every entry of features and sweeps.

    Args:
        params: All parameters.
        tflops: Speed of a worker in TFLOP/s; None measures this machine.
        images: Number of images to plan for instead of the data sets'.
        size: Width and height of these images in pixels.
        gigabytes: Speed of copies to the GPU in GB/s.
    """
    counts = Counter({size: images}) if images and size else None
    notes: list[str] = []
    columns = {}
    for name, (entry, sweep) in _extractions(params).items():
        sizes = _image_sizes(params, entry, sweep, [] if counts else notes)
        sizes = replace(sizes, counts=counts) if counts else sizes
        columns[name] = _column(params, name, entry, sweep, sizes, tflops, notes)
    return _as_text(columns, [*dict.fromkeys(notes), *_assumptions(columns, params, tflops, gigabytes)], gigabytes)


def plan_released(params: Params, tflops: float) -> Plan:
    """Compute the cost of every entry of features for the official releases of the data sets, wherever they are.

    Args:
        params: All parameters.
        tflops: Speed of a worker in TFLOP/s.
    """
    notes: list[str] = []
    columns = {
        name: _column(params, name, entry, sweep, _released_sizes(params, entry, sweep, []), tflops, notes)
        for name, (entry, sweep) in _extractions(params).items()
    }
    notes = [*dict.fromkeys(notes), *_assumptions(columns, params, tflops, COPIES)]
    return _as_text(columns, notes, COPIES)


def costs(params: Params) -> dict[str, EntryCost]:
    """Return the cost of each entry of features and sweeps that is known without reading images.

    The data set must have a catalog or an official release. Models that need no download are left out, because they
    cost next to nothing.

    Args:
        params: All parameters.
    """
    known = {}
    for name, (entry, sweep) in _extractions(params).items():
        dataset, source = params.datasets[entry.dataset], params.models[entry.model].source
        try:
            if not (is_hub(source) or Path(source).is_dir()):
                continue
            if (CATALOGS / entry.dataset).is_dir():
                images = _image_sizes(params, entry, sweep, [])
            elif dataset.release:
                images = _released_sizes(params, entry, sweep, [])
            else:
                continue
            cost = _column(params, name, entry, sweep, images, 1.0, []).cost
        except UserError:
            continue  # a wrong data set or model, which other checks report
        if cost:
            known[name] = cost
    return known


def _as_text(columns: Mapping[str, Column], notes: list[str], gigabytes: float) -> Plan:
    rows = _rows(columns, gigabytes)
    return Plan(notes, [{"": label, **dict(zip(columns, cells, strict=True))} for label, cells in rows.items()])


def _extractions(params: Params) -> dict[str, tuple[FeaturesEntry, Sweep | None]]:
    """Return the entries of features, and the first one of each sweep with the sweep, by the name of their column."""
    entries: dict[str, tuple[FeaturesEntry, Sweep | None]] = {
        name: (entry, None) for name, entry in params.features.items()
    }
    return entries | {
        f"sweep {name}": (next(iter(sweep.features.values())), sweep) for name, sweep in params.sweeps.items()
    }


def _column(
    params: Params,
    name: str,
    entry: FeaturesEntry,
    sweep: Sweep | None,
    images: ImageSizes,
    tflops: float | None,
    notes: list[str],
) -> Column:
    """Return the column of one entry.

    Args:
        params: All parameters.
        name: Name of the column.
        entry: Settings of the features.
        sweep: The sweep that the entry belongs to, if any.
        images: The images.
        tflops: Speed of a worker in TFLOP/s; None measures this machine.
        notes: Receives what the costs assume.
    """
    settings = params.models[entry.model]
    model = Model(settings.type, settings.source, settings.revision, "")
    sizes = entry.backbone.sizes(model)
    if sizes is None:
        return Column(sum(images.counts.values()))
    if is_hub(model.source) and model.source not in entry.backbone.published:
        known = next(iter(entry.backbone.published), "a model of its family")
        notes.append(f"{name}: the sizes of {model.source} are taken to be those of {known}")
    rule = images.resize if entry.rule == "auto" else entry.rule
    tokens: Counter[int] = Counter()
    for (width, height), count in images.counts.items():
        w, h = model_size(rule, entry.img_size, width, height, sizes.stride)
        tokens[(w // sizes.stride) * (h // sizes.stride)] += count
    cost = estimate(sizes, tokens, entry, settings.batch_size, 4 if settings.dtype == "float32" else 2)
    supported = entry.backbone.options
    return Column(
        images=cost.images,
        options=tuple(option for option in OPTIONS if not option or option.partition(":")[0] in supported),
        tflops=tflops or measured_tflops(sizes.shapes[0][1], _runs_on_gpu(settings)),
        cost=_of_sweep(cost, sweep) if sweep else cost,
    )


def _runs_on_gpu(settings: ModelSettings) -> bool:
    return settings.device != "cpu" and has_gpu()


def _assumptions(columns: Mapping[str, Column], params: Params, tflops: float | None, gigabytes: float) -> list[str]:
    """Say from which speeds the times are computed, and what they leave out."""
    if tflops:
        speed = f"{tflops:g} TFLOP/s per worker, as --tflops says"
    else:
        speeds = sorted({f"{column.tflops:.2g}" for column in columns.values() if column.cost}, key=float)
        kind = "GPU" if any(_runs_on_gpu(settings) for settings in params.models.values()) else "CPU"
        speed = f"{' to '.join(dict.fromkeys((speeds[0], speeds[-1]))) if speeds else UNKNOWN} TFLOP/s per worker"
        speed += f", measured with matrix products on this machine's {kind}; --tflops plans for another"
    return [
        f"Speeds: {speed}; {gigabytes:g} GB/s for copies to the GPU.",
        "Times are those of the blocks. They leave out loading the model, and encoding prompts and images.",
    ]


def _rows(columns: Mapping[str, Column], gigabytes: float) -> dict[str, list[str]]:
    """Return the cells of each row by its label."""
    values: dict[str, Callable[[EntryCost, float], str]] = {
        "tokens": lambda c, _: f"{c.tokens:,}",
        "FLOPs of the blocks": lambda c, _: f"{c.flops / 1e15:,.3g} PFLOP",
        "time on one worker": lambda c, tflops: _duration(c.flops / tflops / 1e12),
        "features on disk": lambda c, _: _bytes(c.feature_bytes),
        "files of tokens": lambda c, _: f"{c.files:,}",
        "index (kind auto)": lambda c, _: _bytes(c.index_bytes) if c.index_bytes else "-",
        "memory of a worker": lambda c, _: _bytes(c.memory[""]),
        "memory of the text encoders": lambda c, _: _bytes(c.text_bytes),
    }
    rows = {"images": [f"{column.images:,}" for column in columns.values()]}
    for label, value in values.items():
        rows[label] = [value(c.cost, c.tflops) if c.cost else UNKNOWN for c in columns.values()]
    for option in OPTIONS:
        rows[f"GPU with {option}" if option else "GPU that suffices"] = [
            UNKNOWN if column.cost is None else smallest_gpu(column.cost, option) if option in column.options else "-"
            for column in columns.values()
        ]
    copies = []
    for column in columns.values():
        if column.cost is None or "offload: blocks" not in column.options:
            copies.append("-" if column.cost else UNKNOWN)
            continue
        copy, work = column.cost.block_bytes / gigabytes / 1e9, column.cost.block_flops / column.tflops / 1e12
        copies.append(f"{_duration(copy)} / {_duration(work)}")
    return rows | {"copying / computing a block": copies}


def gpu_bytes(cost: EntryCost, option: str) -> float:
    """Return the bytes of a GPU that suffices for an extraction and its text encoders.

    Args:
        cost: The cost of the extraction.
        option: An option of the model's entry; "" for none. `offload: blocks` also offloads the text encoders.
    """
    text_bytes = 0 if option == "offload: blocks" else cost.text_bytes
    return max(cost.memory[option], text_bytes) + GPU_RESERVE


def smallest_gpu(cost: EntryCost, option: str) -> str:
    """Return the smallest usual GPU that suffices for an extraction and its text encoders.

    Args:
        cost: The cost of the extraction.
        option: An option of the model's entry; "" for none.
    """
    needed = gpu_bytes(cost, option)
    return next((f"{size} GB" for size in GPUS if needed <= size * 1e9), "more than 80 GB")


def _of_sweep(cost: EntryCost, sweep: Sweep) -> EntryCost:
    """Return the cost of all timesteps. One timestep at a time is on disk, with all its ensemble sizes."""
    stores = len(sweep.settings.ensemble_sizes)
    return replace(
        cost,
        flops=cost.flops * len(sweep.features),
        feature_bytes=cost.feature_bytes * stores,
        files=cost.files * stores,
        index_bytes=0,
    )


def _image_sizes(params: Params, entry: FeaturesEntry, sweep: Sweep | None, notes: list[str]) -> ImageSizes:
    """Count the images of an entry's data set.

    Args:
        params: All parameters.
        entry: The entry of features.
        sweep: A sweep whose subset is counted.
        notes: Receives what the counts assume.
    """
    catalog_folder, dataset = CATALOGS / entry.dataset, params.datasets[entry.dataset]
    if not catalog_folder.is_dir() and not Path(dataset.root).exists():
        return _released_sizes(params, entry, sweep, notes)
    with tempfile.TemporaryDirectory() as temporary:
        if not catalog_folder.is_dir():
            catalog_folder = Path(temporary) / entry.dataset
            write_catalog(catalog_folder, dataset.read())
            if dataset.subset is not None:
                keep_subset(catalog_folder, dataset.subset)
        catalog = Catalog(catalog_folder)
        if sweep:
            subset = choose(catalog, sweep.settings.subset, sweep.settings.seed)
            catalog = write_subset(catalog, subset, Path(temporary) / "subset")
        counts = Counter((row["width"], row["height"]) for row in catalog.rows("images"))
        return ImageSizes(counts, catalog.resize)


def _released_sizes(params: Params, entry: FeaturesEntry, sweep: Sweep | None, notes: list[str]) -> ImageSizes:
    """Return the images of the official release of an entry's data set, or one image if there is no release."""
    dataset = params.datasets[entry.dataset]
    release, start = dataset.release, f"{dataset.root}: not found, so that the plan is for"
    if release is None:
        notes.append(f"{start} one image of 640x480")
        return ImageSizes({(640, 480): 1}, "longer")
    images = release.images_in(sweep.settings.subset if sweep else dataset.subset)
    notes.append(f"{start} the official release: {images:,} images of {release.size[0]}x{release.size[1]}")
    return ImageSizes({release.size: images}, release.resize)


def _bytes(count: float) -> str:
    power = min(6, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:.3g} {('B', 'KB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:,.3g} s"
