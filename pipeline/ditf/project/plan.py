"""The command `ditf plan`: what an extraction costs, computed from the sizes of the model and the images."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ditf.backbones.base import ModelSize
from ditf.backbones.source import Model, is_hub
from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry, Sweep
from ditf.data.catalog import Catalog
from ditf.data.images import model_size
from ditf.data.subset import choose, write_subset
from ditf.features.store_writer import MOST_FILES, MOST_SHARED
from ditf.project.paths import CATALOGS
from ditf.retrieval.index import AXES, FLAT_TOKENS
from ditf.types import Rule

RESERVED = 1e9  # bytes that CUDA and the allocator take of a GPU
GPUS = (8, 12, 16, 24, 40, 80)  # GB
BYTES = {"float16": 2, "float32": 4, "int8": 1}
QUANTIZED = {"quantize: int8": 1.0, "quantize: nf4": 0.56}  # bytes per weight of a block, with its scales


@dataclass(frozen=True)
class EntryCost:
    """Of an extraction.

    flops: multiplications and additions. memory: of a GPU that holds the model and one batch, in bytes, by the options
    of the model's entry that are set for it; "" for none. text: the same, of the text encoders. copy, work: bytes of a
    block that `offload: blocks` copies, and multiplications and additions meanwhile.
    """

    images: int
    tokens: int
    flops: float
    feature_bytes: int
    files: int
    index_bytes: int
    memory: dict[str, float]
    text: float
    copy: float
    work: float


def estimate(
    sizes: ModelSize, tokens: Mapping[int, int], entry: FeaturesEntry, batch_size: int, number_bytes: int
) -> EntryCost:
    """The cost of an extraction.

    Args:
        sizes: of the model.
        tokens: how many images have how many tokens: {tokens: images}.
        entry: of the features.
        batch_size: noise samples per forward pass. number_bytes: of a weight.
    """
    images, blocks = sum(tokens.values()), len(entry.backbone.blocks)
    squares, most = sum(n * count for n, count in tokens.items()), max(tokens)
    totals = [squares * (sizes.stride // stride) ** 2 for stride, _ in sizes.shapes]
    total, channels = totals[0], sizes.shapes[0][1]
    samples = entry.backbone.ensemble_size
    batch = min(samples, batch_size)

    def flops(n: int) -> float:
        a, b, c = sizes.flops
        return a + b * n + c * n**2

    shared = min(MOST_SHARED, math.ceil(images * blocks / MOST_FILES))
    axes = channels * 4 if total <= FLAT_TOKENS else min(AXES, channels) + 8
    inside = sizes.weights - sizes.resident_weights
    encoding = most * sizes.stride**2 * sizes.autoencoder_activations
    passing = batch * (most + sizes.text_tokens) * sizes.activations
    outside = (sizes.resident_weights + sizes.autoencoder_weights + max(encoding, passing)) * number_bytes
    memory = {"": outside + inside * number_bytes}
    exact, rest = sizes.exact_weights * number_bytes, inside - sizes.exact_weights
    memory |= {option: outside + exact + rest * size for option, size in QUANTIZED.items()}
    memory["offload: blocks"] = outside + min(2 * sizes.block_weights, inside) * number_bytes
    return EntryCost(
        images=images,
        tokens=total,
        flops=samples * sum(flops(n) * count for n, count in tokens.items()),
        feature_bytes=sum(n * c for n, (_, c) in zip(totals, sizes.shapes, strict=True)) * BYTES[entry.encoding],
        files=blocks * -(-images // shared),
        index_bytes=total * axes + images * 4 * channels,
        memory=memory,
        text=sizes.text_weights * number_bytes,
        copy=sizes.block_weights * number_bytes,
        work=batch * flops(most) * sizes.block_weights / max(inside, sizes.block_weights),
    )


def plan(
    params: Params, tflops: float, images: int | None, size: tuple[int, int] | None, gigabytes: float = 25.0
) -> None:
    """Print what the entries of features cost, or `images` images of `size` (width, height) in each of them.

    tflops, gigabytes: of the GPU's arithmetic, and of copying to it, per second.
    """
    columns: dict[str, EntryCost] = {}
    sweeps = {f"sweep {name}": sweep for name, sweep in params.sweeps.items()}
    entries = params.features | {name: next(iter(sweep.features.values())) for name, sweep in sweeps.items()}
    known_sizes: dict[str, ModelSize] = {}  # by the model and the settings: counting takes seconds
    options: dict[str, tuple[str, ...]] = {}
    for name, entry in entries.items():
        model = params.models[entry.model]
        if is_hub(model.source) and model.source not in entry.backbone.published:
            known = next(iter(entry.backbone.published), "a model of its family")
            print(f"{name}: the sizes of {model.source} are taken to be those of {known}")
        key = repr((model.type, model.source, model.revision, entry.backbone))
        if key not in known_sizes:
            known_sizes[key] = entry.backbone.sizes(Model(model.type, model.source, model.revision, ""))
        sizes = known_sizes[key]
        counts, rule = _image_sizes(params, entry, sweeps.get(name))
        if images and size:
            counts = Counter({size: images})
        rule = rule if entry.rule == "auto" else entry.rule
        tokens: Counter[int] = Counter()
        for (width, height), count in counts.items():
            w, h = model_size(rule, entry.img_size, width, height, sizes.stride)
            tokens[(w // sizes.stride) * (h // sizes.stride)] += count
        number_bytes = 4 if model.dtype == "float32" else 2
        columns[name] = estimate(sizes, tokens, entry, model.batch_size, number_bytes)
        if name in sweeps:
            columns[name] = _of_sweep(columns[name], sweeps[name])
        heeded = entry.backbone.options
        options[name] = tuple(o for o in columns[name].memory if not o or o.partition(":")[0] in heeded)
    table = Table(
        title=f"at {tflops:g} TFLOP/s, copying to the GPU at {gigabytes:g} GB/s",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[EntryCost], str]] = {
        "images": lambda c: f"{c.images:,}",
        "tokens": lambda c: f"{c.tokens:,}",
        "arithmetic of the blocks": lambda c: f"{c.flops / 1e15:,.3g} PFLOP",
        "time on one worker": lambda c: _hours(c.flops / tflops / 1e12),
        "features on disk": lambda c: _bytes(c.feature_bytes),
        "files of tokens": lambda c: f"{c.files:,}",
        "index (kind auto)": lambda c: _bytes(c.index_bytes) if c.index_bytes else "-",
        "memory of a worker": lambda c: _bytes(c.memory[""]),
        "memory of the text encoders": lambda c: _bytes(c.text),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(column) for column in columns.values()))
    for option in ("", *QUANTIZED, "offload: blocks"):
        cells = (smallest_gpu(cost, option) if option in options[name] else "-" for name, cost in columns.items())
        table.add_row(f"GPU, {option}" if option else "GPU that suffices", *cells)
    copies = (
        f"{_hours(c.copy / gigabytes / 1e9)} / {_hours(c.work / tflops / 1e12)}" if "offload: blocks" in o else "-"
        for c, o in zip(columns.values(), options.values(), strict=True)
    )
    table.add_row("copy of a block / its work", *copies)
    Console(markup=False, emoji=False).print(table)


def smallest_gpu(cost: EntryCost, option: str) -> str:
    """The smallest usual GPU for an extraction and its text encoders. Offloading takes in both."""
    needed = max(cost.memory[option], 0 if option == "offload: blocks" else cost.text) + RESERVED
    return next((f"{size} GB" for size in GPUS if needed <= size * 1e9), "more than 80 GB")


def _of_sweep(cost: EntryCost, sweep: Sweep) -> EntryCost:
    """Of all timesteps, of which one at a time is on disk, with its ensemble sizes."""
    stores = len(sweep.settings.ensemble_sizes)
    return replace(
        cost,
        flops=cost.flops * len(sweep.features),
        feature_bytes=cost.feature_bytes * stores,
        files=cost.files * stores,
        index_bytes=0,
    )


def _image_sizes(
    params: Params, entry: FeaturesEntry, sweep: Sweep | None = None
) -> tuple[Counter[tuple[int, int]], Rule]:
    """How many images have which (width, height), and the data set's rule: from the catalog, or the data set itself.

    sweep: whose subset is meant; before its data set is catalogued, all images.
    """
    folder = CATALOGS / entry.dataset
    if folder.is_dir():
        catalog = Catalog(folder)
        if sweep:
            with tempfile.TemporaryDirectory() as part:
                catalog = write_subset(catalog, choose(catalog, sweep.settings.subset, sweep.settings.seed), Path(part))
                return Counter((row["width"], row["height"]) for row in catalog.rows("images")), catalog.resize
        rows, rule = catalog.rows("images"), catalog.resize
    else:
        dataset = params.datasets[entry.dataset]
        if not Path(dataset.root).exists():
            print(f"{dataset.root}: not here yet; the cost is that of one image of 640x480")
            return Counter({(640, 480): 1}), "longer"
        tables = dataset.read()
        rows, rule = tables.rows["images"], tables.resize
    return Counter((row["width"], row["height"]) for row in rows), rule


def _bytes(count: float) -> str:
    power = min(6, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:.3g} {('B', 'KB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.3g} s"
