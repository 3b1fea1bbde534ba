"""Encode prompts and keep them on disk, in one safetensors file per distinct prompt."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from ditf.backbones.base import Backbone
from ditf.backbones.source import Model
from ditf.errors import UserError
from ditf.files import write_atomically

MADE_BY = "extraction_config.json"
# Exceptions that a damaged file raises.
DAMAGE = (SafetensorError, ValueError, TypeError, KeyError, OSError)


def file_name(prompt: str) -> str:
    """Return the name of a prompt's file."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32] + ".safetensors"


def encode_prompts(
    prompts: Iterable[str], folder: Path, model: Model, backbone: Backbone, dtype: torch.dtype, device: str
) -> int:
    """Encode the prompts that have no intact file in a folder yet. The encoders are loaded only if needed.

    Args:
        prompts: The prompts. Duplicates are encoded once.
        folder: The folder. It also receives `extraction_config.json` with the dtype of the encoders.
        model: The model that has the text encoders.
        backbone: Settings of the model's family.
        dtype: Type of the computation.
        device: A torch device.

    Returns:
        Number of prompts that were encoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [prompt for prompt in sorted(set(prompts)) if not _is_intact(folder / file_name(prompt))]
    if missing:
        encoded = backbone.encode_prompts(model, missing, dtype, device)
        for prompt, tensors in zip(missing, tqdm(encoded, "prompts", len(missing), unit="prompt"), strict=True):
            data = safetensors.torch.save(
                tensors, {"sha256": _digest(tensors)}
            )  # one entry only, because their order is not fixed
            write_atomically(folder / file_name(prompt), data)
    write_atomically(folder / MADE_BY, json.dumps({"dtype": str(dtype).removeprefix("torch.")}).encode() + b"\n")
    return len(missing)


def load_text(folder: Path, prompt: str) -> dict[str, torch.Tensor]:
    """Read an encoded prompt. Raises `UserError` if it is missing or damaged."""
    path = folder / file_name(prompt)
    try:
        return _read(path)
    except FileNotFoundError:
        raise UserError(f"{path}: {prompt!r} is not encoded. Run `dvc repro`.") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({error}). Remove it and run `dvc repro`.") from None


def dtype_of(folder: Path) -> str:
    """Return the dtype of the encoders that filled a folder."""
    try:
        return str(json.loads((folder / MADE_BY).read_text(encoding="utf-8"))["dtype"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MADE_BY}: not readable ({error}). Run `dvc repro`.") from None


def _is_intact(path: Path) -> bool:
    """Return whether the file of an encoded prompt exists and agrees with its checksum."""
    try:
        _read(path)
    except DAMAGE:
        return False
    return True


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of an encoded prompt. Raises an exception of `DAMAGE` if that fails."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if file.metadata()["sha256"] != _digest(tensors):
            raise ValueError("it disagrees with its checksum")
    return tensors


def _digest(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + bytes(tensors[name].contiguous().view(torch.uint8).numpy()))
    return digest.hexdigest()
