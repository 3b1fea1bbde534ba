"""The command `ditf plan`: what an extraction costs, computed from the sizes of the model and the images."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ditf.backbones import Sizes
from ditf.catalog import Catalog
from ditf.commands.project import CATALOGS
from ditf.features.writing import MOST_FILES, MOST_SHARED
from ditf.images import Rule, model_size
from ditf.models import Model, is_hub
from ditf.params import FeaturesEntry, Params
from ditf.retrieval.index import AXES, FLAT_TOKENS

OTHER_WEIGHTS = 0.2e9  # bytes: the VAE, embeddings and the last norm, in 16 bits
BYTES = {"float16": 2, "float32": 4, "int8": 1}


@dataclass(frozen=True)
class Cost:
    """Of an extraction. flops: multiplications and additions. memory: of a worker's model, in bytes."""

    images: int
    tokens: int
    flops: float
    feature_bytes: int
    files: int
    index_bytes: int
    memory: float


def estimate(sizes: Sizes, tokens: Mapping[int, int], entry: FeaturesEntry, batch_size: int, number_bytes: int) -> Cost:
    """The cost of an extraction.

    Args:
        sizes: of the model.
        tokens: how many images have how many tokens: {tokens: images}.
        entry: of the features.
        batch_size: noise samples per forward pass. number_bytes: of a weight.
    """
    images, blocks = sum(tokens.values()), len(entry.backbone.blocks)
    total, most = sum(n * count for n, count in tokens.items()), max(tokens)
    samples = entry.backbone.ensemble_size

    def flops(n: int) -> float:
        every = n + sizes.text_tokens
        return every * sizes.flops_per_token + every**2 * sizes.flops_per_pair

    shared = min(MOST_SHARED, math.ceil(images * blocks / MOST_FILES))
    activations = min(samples, batch_size) * (most + sizes.text_tokens) * sizes.activations
    axes = sizes.channels * 4 if total <= FLAT_TOKENS else min(AXES, sizes.channels) + 8
    return Cost(
        images=images,
        tokens=total,
        flops=samples * sum(flops(n) * count for n, count in tokens.items()),
        feature_bytes=blocks * total * sizes.channels * BYTES[entry.encoding],
        files=blocks * -(-images // shared),
        index_bytes=total * axes + images * 4 * sizes.channels,
        memory=number_bytes * (sizes.weights + activations) + OTHER_WEIGHTS * number_bytes / 2,
    )


def plan(params: Params, tflops: float, images: int | None, size: tuple[int, int] | None) -> None:
    """Print what the entries of features cost, or `images` images of `size` (width, height) in each of them."""
    columns: dict[str, Cost] = {}
    for name, entry in params.features.items():
        model = params.models[entry.model]
        sizes = entry.backbone.sizes(_model(model.type, model.source, model.revision))
        counts, rule = _image_sizes(params, entry)
        if images and size:
            counts = Counter({size: images})
        rule = rule if entry.rule == "auto" else entry.rule
        tokens: Counter[int] = Counter()
        for (width, height), count in counts.items():
            w, h = model_size(rule, entry.img_size, width, height, sizes.stride)
            tokens[(w // sizes.stride) * (h // sizes.stride)] += count
        number_bytes = 4 if model.dtype == "float32" else 2
        columns[name] = estimate(sizes, tokens, entry, model.batch_size, number_bytes)
    table = Table(title=f"at {tflops:g} TFLOP/s", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[Cost], str]] = {
        "images": lambda c: f"{c.images:,}",
        "tokens": lambda c: f"{c.tokens:,}",
        "arithmetic of the blocks": lambda c: f"{c.flops / 1e15:,.3g} PFLOP",
        "time on one worker": lambda c: _hours(c.flops / tflops / 1e12),
        "features on disk": lambda c: _bytes(c.feature_bytes),
        "files of tokens": lambda c: f"{c.files:,}",
        "index (kind auto)": lambda c: _bytes(c.index_bytes),
        "memory of a worker": lambda c: _bytes(c.memory),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(column) for column in columns.values()))
    Console().print(table)


def _model(type: str, source: str, revision: str) -> Model | None:
    """A model whose configuration can be read without a network; None for one of the Hub."""
    return None if is_hub(source) else Model(type, source, revision, "")


def _image_sizes(params: Params, entry: FeaturesEntry) -> tuple[Counter[tuple[int, int]], Rule]:
    """How many images have which (width, height), and the data set's rule: from the catalog, or the data set itself."""
    folder = CATALOGS / entry.dataset
    if folder.is_dir():
        catalog = Catalog(folder)
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
