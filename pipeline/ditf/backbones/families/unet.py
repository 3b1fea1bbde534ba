"""Stable Diffusion's U-Nets, as DIFT reads them: features are the outputs of up blocks, without modulation.

Method: Tang et al., "Emergent Correspondence from Image Diffusion" (arXiv 2306.03881).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct
from ditf.types import ORIGINAL

if TYPE_CHECKING:
    from ditf.backbones.networks.unet import LoadedUNet

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
        "stabilityai/stable-diffusion-2-1": HubModel("CreativeML Open RAIL++-M", 0.866, 4, 1280, 0.34, SD2),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": HubModel("CreativeML Open RAIL-M", 0.86, 4, 1280, 0.12, SD1),
        "stabilityai/stable-diffusion-xl-base-1.0": HubModel("CreativeML Open RAIL++-M", 2.57, 3, 1280, 0.82, XL),
    }

    blocks: Distinct[Block] = Field(default=[1])
    timestep: int = Field(default=261, ge=0, le=999)

    def network(self) -> type[LoadedUNet]:
        from ditf.backbones.networks.unet import LoadedUNet  # imports torch, which settings do without

        return LoadedUNet
