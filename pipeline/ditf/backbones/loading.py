"""Load the components of a model from its folder. Only safetensors weights are read."""

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
    _library.set_verbosity_error()  # no warnings about skipped components and truncated prompts

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_component(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a frozen model from its folder.

    Args:
        kind: Class of diffusers or transformers.
        folder: Folder of the model.
        **options: Further arguments of `kind.from_pretrained`.

    Raises:
        UserError: The model cannot be loaded.
    """
    check_weights(folder)
    try:
        model = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from None
    return aligned(model.requires_grad_(False).eval())


def aligned(model: nn.Module) -> nn.Module:
    """Copy a model's weights into memory. In the mapped file, their alignment would change the rounding of sums."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_pipeline(name: str, folder: Path, kept: Iterable[str], dtype: torch.dtype) -> Any:
    """Load a diffusers pipeline without the components that are not needed.

    Args:
        name: Name of the pipeline's class.
        folder: Folder of the pipeline.
        kept: Names of the components to load.
        dtype: Type of the computation.

    Raises:
        UserError: The pipeline cannot be loaded.
    """
    kind = getattr(diffusers, name)
    others = dict.fromkeys(set(inspect.signature(kind).parameters) - set(kept))
    try:
        pipeline = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True, **others)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: the text encoders cannot be loaded: {' '.join(str(error).split())}") from None
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            aligned(component)
    return pipeline


def weight_index(folder: Path) -> dict[str, str] | None:
    """Return the file of each tensor by its name, or None if all weights of a folder are in one file."""
    path = folder / f"{WEIGHTS}.index.json"
    if not path.exists():
        return None
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {name: Path(file).name for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an index of weights ({error})") from None


def read_tensors(folder: Path, names: list[str], dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Read tensors by name from the safetensors files of a diffusers component.

    Args:
        folder: Folder of the component.
        names: Names of the tensors.
        dtype: Type to which they are converted.
        device: Device to which they are loaded.

    Raises:
        UserError: A file or a tensor is missing or damaged.
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
        for file_name in sorted({index[name] for name in names}):
            with safe_open(folder / file_name, "pt", device=device) as file:
                for name in names:
                    if index[name] == file_name:
                        # A copy, so that rounding does not depend on the alignment in the file; see `aligned`.
                        state[name] = file.get_tensor(name).to(dtype, copy=True)
        return state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: weights cannot be read: {' '.join(str(error).split())}") from None
