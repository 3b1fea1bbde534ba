"""What a model's configuration says of its cost, counted on the meta device: no weights, no arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ditf.backbones.base import Backbone, ModelSize
from ditf.backbones.diffusion.settings import Diffusion
from ditf.backbones.source import Model, is_hub
from ditf.errors import UserError

ACTIVATIONS = 20  # of the width, per token and noise sample: the residual stream, q, k, v, the MLP, and their copies
AUTOENCODER = 0.1e9  # parameters
PER_PIXEL = 770  # numbers held while an image is encoded; measured for FLUX's autoencoder on a GPU
GRIDS = ((16, 16), (32, 32), (48, 48))


def denoiser_sizes(settings: Diffusion, model: Model) -> ModelSize:
    """The sizes of a diffusion model up to the deepest captured block."""
    kind = settings.network()
    layout = kind.layout
    if is_hub(model.source):
        config, text_weights = published_config(settings, model)
    else:
        config = layout.config(model.component(settings.denoiser, ()))
        text_weights = sum(_parameters(path) for path in model.component("", ()).glob("text_encoder*/*.safetensors"))
    with torch.device("meta"):
        network = layout.skeleton(config).to("meta")
    layout.check(settings.blocks, network, Path(model.source))
    shapes = {name: weight.numel() for name, weight in network.state_dict().items()}
    part = kind(network, settings)
    words = {name: torch.ones(shape, device="meta") for name, shape in part.text_shapes().items()}

    def run(grid: tuple[int, int]) -> None:
        squares = part.stride // part.latent_stride
        part.features(torch.empty(1, part.latent_channels(), *(n * squares for n in grid), device="meta"), words)

    needed = layout.needed(network, max(settings.blocks))
    weights = sum(shapes[name] for name in needed)
    inside = [name for name in needed if name.split(".")[0] in layout.stacks]
    return ModelSize(
        stride=part.stride,
        shapes=tuple(part.shape(block) for block in settings.blocks),
        text_tokens=max(shape[0] for shape in part.text_shapes().values() if len(shape) > 1),
        weights=weights,
        resident_weights=weights - sum(shapes[name] for name in inside),
        block_weights=max(sum(w.numel() for w in block.parameters()) for block in layout.blocks(network)),
        flops=fit(run, layout.blocks(network), GRIDS),
        activations=ACTIVATIONS * part.activations(),
        exact_weights=sum(shapes[name] for name in inside if name.split(".")[2] in layout.modulation),
        text_weights=text_weights,
        autoencoder_weights=AUTOENCODER,
        autoencoder_activations=PER_PIXEL,
    )


def published_config(settings: Backbone, model: Model) -> tuple[dict[str, Any], float]:
    """The configuration of a model on the Hub, and the parameters of its text encoders; of one that is not known, those
    of the family's first."""
    found = settings.published.get(model.source) or next(iter(settings.published.values()))
    return dict(found.config), found.text * 1e9


def fit(
    run: Callable[[tuple[int, int]], None], blocks: Iterable[nn.Module], grids: Iterable[tuple[int, int]]
) -> tuple[float, float, float]:
    """Multiplications and additions of `run` over n tokens, (a, b, c) of a + b n + c n^2, from runs on three grids.

    Of `blocks` that are alike and get alike inputs, one runs; the others count as much and return what it returned,
    for which their `forward` is replaced.
    """
    counter = FlopCounterMode(display=False)
    known: dict[str, tuple[int, Any]] = {}
    skipped = 0

    def once(forward: Callable[..., Any], kind: object) -> Callable[..., Any]:
        def count(*args: Any, **named: Any) -> Any:
            nonlocal skipped
            key = repr((kind, args, named))  # of tensors on the meta device it shows their shapes
            if key in known:
                skipped += known[key][0]
            else:
                before = counter.get_total_flops()
                found = forward(*args, **named)
                known[key] = counter.get_total_flops() - before, found
            return known[key][1]

        return count

    for block in blocks:
        block.forward = once(block.forward, (type(block), [weight.shape for weight in block.parameters()]))
    counts, tokens = [], []
    for grid in grids:
        skipped = 0
        with counter:
            run(grid)
        counts.append(float(counter.get_total_flops() + skipped))
        tokens.append(grid[0] * grid[1])
    a, b, c = np.linalg.solve(np.vander(np.array(tokens, float), 3, increasing=True), counts)
    return float(a), float(b), float(c)


def _parameters(path: Path) -> float:
    """How many numbers a file of safetensors holds."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return float(sum(np.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of safetensors ({error})") from None
