"""Stable Diffusion's U-Net: its arguments in diffusers, and the sizes of its up blocks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import tokens
from ditf.backbones.diffusion.schedule import scheduler_noise
from ditf.backbones.diffusion.settings import Diffusion
from ditf.backbones.partial import DenoiserLayout
from ditf.backbones.source import Model


class LoadedUNet(LoadedDiffusion):
    """A U-Net, cut off after the deepest captured up block. Each up block has its own stride and channels."""

    layout = DenoiserLayout("UNet2DConditionModel", ("up_blocks",), ("conv_norm_out", "conv_out"), capture_output=True)
    norm = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stride, _ = self.shape(0)

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return CLIP embeddings of 77 tokens without attention mask. XL adds an encoder and a pooled vector."""
        encoded = pipeline.encode_prompt(
            prompt=prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        pooled = {"pooled": encoded[2][0]} if len(encoded) > 2 else {}
        return {"prompt_embeds": encoded[0][0], **pooled}

    @classmethod
    def schedule(cls, settings: Diffusion, model: Model) -> tuple[float, float]:
        return scheduler_noise(model, settings.timestep)

    def width(self) -> int:
        return self.shape(self.blocks[0])[1]

    def shape(self, block: int) -> tuple[int, int]:
        widths = self.model.config.block_out_channels
        return self.latent_stride * 2 ** max(0, len(widths) - 2 - block), widths[-1 - block]

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "sample": latents,
            "timestep": self.timesteps(len(latents)),
            "encoder_hidden_states": text["prompt_embeds"],
        }
        if "pooled" in text:
            height, width = (side * self.latent_stride for side in latents.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype, device=self.device)
            times = sizes.expand(len(latents), -1)
            arguments["added_cond_kwargs"] = {"text_embeds": text["pooled"], "time_ids": times}
        return arguments

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        return tokens(hidden)
