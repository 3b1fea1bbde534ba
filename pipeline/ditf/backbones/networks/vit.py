"""Vision transformers of the transformers library: loading, preprocessing and capturing blocks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, Dinov2Model

from ditf.backbones.base import LoadedBackbone, Text
from ditf.backbones.loading import load_component
from ditf.backbones.partial import capture
from ditf.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = ("patch_size", "hidden_size", "num_hidden_layers")
OFFSET = 0.1  # in patches; the published DINOv2 adds it before it scales its position embeddings


class LoadedViT(LoadedBackbone):
    """A vision transformer, cut off after the deepest captured block.

    Args:
        model: The model of the transformers library.
        blocks: Blocks whose outputs are captured.
        final_norm: Apply the model's last normalization to the features.
        mean: Mean of each colour channel of the model's training images.
        std: Standard deviation of each colour channel.
    """

    def __init__(
        self, model: Any, blocks: Iterable[int], final_norm: bool, mean: list[float], std: list[float]
    ) -> None:
        self.model, self.blocks, self.final_norm = model, sorted(blocks), final_norm
        self.stride, self.channels = int(model.config.patch_size), int(model.config.hidden_size)
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        if isinstance(model, Dinov2Model):
            model.embeddings.interpolate_pos_encoding = _published_positions(model)

    @classmethod
    def load(cls, folder: Path, blocks: Iterable[int], final_norm: bool, dtype: torch.dtype, device: str) -> LoadedViT:
        """Load the blocks up to the deepest captured one.

        Args:
            folder: Folder of a transformers model with safetensors weights.
            blocks: Blocks whose outputs are captured.
            final_norm: Apply the model's last normalization to the features.
            dtype: Type of the computation.
            device: A torch device.

        Raises:
            UserError: The folder has no vision transformer with patches, or the model does not have a captured block.
        """
        config = _config(folder)
        if max(blocks) >= config.num_hidden_layers:
            count = config.num_hidden_layers
            raise UserError(f"blocks: {max(blocks)} is not a block of {folder}, which has 0..{count - 1}")
        config.num_hidden_layers = max(blocks) + 1
        mean, std = _standardization(folder, config.model_type)
        model = load_component(AutoModel, folder, config=config, dtype=dtype).to(device)
        return cls(model, blocks, final_norm, mean, std)

    def encode(self, pixels: Tensor) -> Tensor:
        image = ((pixels + 1) / 2 - self._mean) / self._std
        return image[None].to(self.model.device, self.model.dtype)

    @torch.inference_mode()
    def capture(self, encoded: Tensor, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        arguments: dict[str, Any] = {"pixel_values": encoded}
        if "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters:
            arguments["interpolate_pos_encoding"] = True
        outputs = capture(self.model, list(blocks_of(self.model)), self.blocks, arguments, capture_output=True)
        if self.final_norm:
            outputs = {block: final_norm_of(self.model)(hidden) for block, hidden in outputs.items()}
        patches = encoded.shape[-2] * encoded.shape[-1] // self.stride**2
        # Class and register tokens come first.
        return {block: hidden[:, -patches:] for block, hidden in outputs.items()}


def _config(folder: Path) -> Any:
    """Read the configuration of the vision transformer in a folder."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / 'config.json'}: not a model's configuration: {reason}") from None
    config = getattr(config, "vision_config", config)  # models of images and texts nest it
    if not all(isinstance(getattr(config, name, None), int) for name in SIZES):
        raise UserError(f"{folder / 'config.json'}: {config.model_type} is not a vision transformer of patches")
    return config


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """Return the blocks of a vision transformer: its longest list of modules."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


def final_norm_of(model: nn.Module) -> Any:
    """Return the normalization after the last block."""
    return next(getattr(model, name) for name in ("layernorm", "norm", "post_layernorm") if hasattr(model, name))


def _standardization(folder: Path, kind: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each colour channel from the model's preprocessing configuration."""
    path = folder / "preprocessor_config.json"
    if not path.exists() and kind.startswith("dino"):
        return list(IMAGENET[0]), list(IMAGENET[1])
    try:
        preprocessing = json.loads(path.read_text(encoding="utf-8"))
        mean, std = preprocessing["image_mean"], preprocessing["image_std"]
        if len(mean) != 3 or len(std) != 3 or min(map(float, std)) <= 0:
            raise ValueError(f"image_mean {mean}, image_std {std}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: gives no mean and standard deviation of colours ({error}). Download it again."
        ) from None
    return mean, std


def _published_positions(model: Any) -> Any:
    """Return a function that scales position embeddings like the published DINOv2, which adds an offset."""

    def positions(embeddings: Tensor, height: int, width: int) -> Tensor:
        table: Tensor = model.embeddings.position_embeddings
        side = round((table.shape[1] - 1) ** 0.5)
        rows, columns = (pixels // model.config.patch_size for pixels in (height, width))
        if (rows, columns) == (side, side):
            return table
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
        scale = ((rows + OFFSET) / side, (columns + OFFSET) / side)
        scaled = nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic").to(table.dtype)
        return torch.cat([table[:, :1], scaled.flatten(2).transpose(1, 2)], 1)

    return positions
