"""Loading a part of a diffusers folder: safetensors only, and one line for what is wrong with it."""

from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from pipeline.errors import UserError

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()


def load_component(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a diffusers or transformers model from its folder, frozen. Raises `UserError` where that fails."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: holds no .safetensors file; weights are read as safetensors only")
    try:
        model = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from None
    return model.requires_grad_(False).eval()
