"""Loading a part of a model's folder: safetensors only, and one line for what is wrong with it."""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from ditf.backbones.source import check_weights
from ditf.errors import UserError

for _library in (diffusers_logging, transformers_logging):
    _library.disable_progress_bar()
    _library.set_verbosity_error()  # they warn of what is not used here, and of each prompt that CLIP cuts off

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_component(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a diffusers or transformers model from its folder, frozen. Raises `UserError` where that fails."""
    check_weights(folder)
    try:
        model = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from None
    return aligned(model.requires_grad_(False).eval())


def aligned(model: nn.Module) -> nn.Module:
    """Copy a model's weights out of their mapped file: from there, sums would round as each offset happens to be."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_pipeline(name: str, folder: Path, kept: Iterable[str], dtype: torch.dtype) -> Any:
    """Load the diffusers pipeline of a class, with the components `kept` and no others. Raises `UserError` where that
    fails."""
    kind = getattr(diffusers, name)
    others = dict.fromkeys(set(inspect.signature(kind).parameters) - set(kept))
    try:
        pipeline = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True, **others)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: the text encoders cannot be loaded: {' '.join(str(error).split())}") from None
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            aligned(part)
    return pipeline


def weight_index(folder: Path) -> dict[str, str] | None:
    """The file of each tensor, by name, where a folder's weights are in several files; else None."""
    path = folder / f"{WEIGHTS}.index.json"
    if not path.exists():
        return None
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {name: Path(file).name for name, file in named.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an index of weights ({error})") from None


def read_tensors(folder: Path, names: list[str], dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Tensors of a folder of safetensors, in one file or several, by name.

    Args:
        folder: of a diffusers component.
        names: of the tensors requested.
        dtype, device: to load them as and to.
    """
    try:
        index = weight_index(folder)
        if index is None:
            if not (folder / WEIGHTS).exists():
                check_weights(folder)
                raise UserError(f"{folder / WEIGHTS}: not found. Download the model again.")
            with safe_open(folder / WEIGHTS, "pt") as file:
                index = dict.fromkeys(file.keys(), WEIGHTS)
        missing = [name for name in names if name not in index]
        if missing:
            raise UserError(f"{folder}: tensors disagree with config.json: {missing[0]} is missing")
        state: dict[str, Tensor] = {}
        for part in sorted({index[name] for name in names}):
            with safe_open(folder / part, "pt", device=device) as file:
                for name in names:
                    if index[name] == part:
                        # A copy, for the reason that `aligned` gives.
                        state[name] = file.get_tensor(name).to(dtype, copy=True)
        return state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: weights cannot be read: {' '.join(str(error).split())}") from None
