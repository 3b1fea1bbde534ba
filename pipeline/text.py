"""Encoded prompts on disk: one safetensors file a distinct prompt, each encoded once."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from tqdm import tqdm

from pipeline.backbones.flux import Text
from pipeline.backbones.text import TextEncoder
from pipeline.errors import UserError
from pipeline.writer import write_durably


def file_name(prompt: str) -> str:
    """The name of a prompt's file."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32] + ".safetensors"


def encode_prompts(prompts: Iterable[str], folder: Path, load_encoder: Callable[[], TextEncoder]) -> int:
    """Encode the prompts that `folder` lacks, into it; returns how many. The encoder is loaded only if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [p for p in sorted(set(prompts)) if not (folder / file_name(p)).exists()]
    if missing:
        texts = load_encoder().encode(missing)
        for prompt, text in zip(missing, tqdm(texts, "prompts", len(missing), unit="prompt"), strict=True):
            tensors = {"t5": text.t5.contiguous(), "clip": text.clip.contiguous()}
            write_durably(folder / file_name(prompt), safetensors.torch.save(tensors, {"prompt": prompt}))
    return len(missing)


def load_text(folder: Path, prompt: str) -> Text:
    """Read an encoded prompt. Raises `UserError` where it is missing or damaged."""
    path = folder / file_name(prompt)
    try:
        return Text(**safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: {prompt!r} is not encoded; run `dvc repro text`") from None
    except (SafetensorError, TypeError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); run `dvc repro -f text`") from None
