"""Stable Diffusion's U-Nets, as DIFT reads them: features are the outputs of up blocks, without modulation.

Method: Tang et al., "Emergent Correspondence from Image Diffusion" (arXiv 2306.03881).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones import Block, Published
from ditf.backbones.parts.diffusion import Diffusion, LoadedDiffusion, ddpm_schedule
from ditf.backbones.parts.partial import Layout
from ditf.features.descriptors import ORIGINAL
from ditf.settings import Distinct

if TYPE_CHECKING:
    from torch import Tensor

    from ditf.models import Model

SD = {"block_out_channels": [320, 640, 1280, 1280], "sample_size": 64}
SD1 = SD | {"attention_head_dim": 8, "cross_attention_dim": 768}
SD2 = SD | {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


class UNet(Diffusion):
    """Stable Diffusion 1.5, 2.1 and XL. The defaults are DIFT's settings for SPair-71k.

    timestep: t in 0..999. blocks: up blocks, whose outputs are the features: 0..3, or 0..2 in XL.
    """

    pipelines = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    denoiser = "unet"
    imports = ("diffusers.models.autoencoders", "diffusers.models.unets")
    descriptors = ORIGINAL
    published: ClassVar = {
        "stabilityai/stable-diffusion-2-1": Published("CreativeML Open RAIL++-M", 0.866, 4, 1280, 0.34, SD2),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": Published("CreativeML Open RAIL-M", 0.86, 4, 1280, 0.12, SD1),
        "stabilityai/stable-diffusion-xl-base-1.0": Published("CreativeML Open RAIL++-M", 2.57, 3, 1280, 0.82, XL),
    }

    blocks: Distinct[Block] = Field(default=[1])
    timestep: int = Field(default=261, ge=0, le=999)

    def loaded(self) -> type[LoadedUNet]:
        return LoadedUNet

    def schedule(self, model: Model | None = None) -> tuple[float, float]:
        assert model is not None, "the noise is that of the model's scheduler"
        return ddpm_schedule(model, self.timestep)

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """CLIP embeddings, 77 tokens without attention mask; for XL of both CLIPs, and the pooled vector."""
        found = pipeline.encode_prompt(
            prompt=prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        pooled = {"pooled": found[2][0]} if len(found) > 2 else {}
        return {"prompt_embeds": found[0][0], **pooled}


class LoadedUNet(LoadedDiffusion):
    """Up blocks, of which each has a stride and a width of its own."""

    layout = Layout("UNet2DConditionModel", ("up_blocks",), ("conv_norm_out", "conv_out"), after=True)
    norm = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stride, _ = self.shape(0)

    def width(self) -> int:
        return self.shape(self.blocks[0])[1]

    def shape(self, block: int) -> tuple[int, int]:
        widths = self.model.config.block_out_channels
        return self.latent_stride * 2 ** max(0, len(widths) - 2 - block), widths[-1 - block]

    def activations(self) -> float:
        return float(self.model.config.block_out_channels[0] * (self.stride // self.latent_stride) ** 2)

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.model.config
        pooled = {"pooled": (1280,)} if config.addition_embed_type == "text_time" else {}
        return {"prompt_embeds": (77, config.cross_attention_dim), **pooled}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        import torch

        found: dict[str, Any] = {
            "sample": latents,
            "timestep": self.timesteps(len(latents)),
            "encoder_hidden_states": text["prompt_embeds"],
        }
        if "pooled" in text:
            height, width = (side * self.latent_stride for side in latents.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype, device=self.device)
            times = sizes.expand(len(latents), -1)
            found["added_cond_kwargs"] = {"text_embeds": text["pooled"], "time_ids": times}
        return found

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        from ditf.backbones.parts.latents import tokens

        return tokens(hidden)
