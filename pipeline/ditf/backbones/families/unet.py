"""Stable Diffusion's U-Nets, as DIFT uses them: features are the outputs of up blocks, without any normalization.

A U-Net has no AdaLN, so that `original` is the only descriptor. Method: Tang et al., "Emergent Correspondence from
Image Diffusion" (NeurIPS 2023, arXiv 2306.03881).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import (
    ACTIVATIONS_PER_CHANNEL,
    ONCE,
    Architecture,
    LayerCost,
    Tokens,
    attention,
    convolution,
    linear,
    mlp,
    text,
)
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
LATENT_STRIDE = 8
TEXT_TOKENS = 77


class UNet(Diffusion):
    """Stable Diffusion 1.5, 2.1 and XL. The defaults are DIFT's settings for SPair-71k.

    Attributes:
        blocks: Up blocks whose outputs are captured: 0 to 3, or 0 to 2 in XL.
        timestep: Timestep, 0 to 999.
    """

    pipelines: ClassVar = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    denoiser: ClassVar = "unet"
    descriptors: ClassVar = ORIGINAL
    published: ClassVar = {
        "stabilityai/stable-diffusion-2-1": HubModel("CreativeML Open RAIL++-M", 0.866, 4, 1280, 0.34, SD2),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": HubModel("CreativeML Open RAIL-M", 0.86, 4, 1280, 0.12, SD1),
        "stabilityai/stable-diffusion-xl-base-1.0": HubModel("CreativeML Open RAIL++-M", 2.57, 3, 1280, 0.82, XL),
    }
    config_defaults: ClassVar = {
        "in_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "projection_class_embeddings_input_dim": None,
    }

    blocks: Distinct[Block] = Field(default=[1])
    timestep: int = Field(default=261, ge=0, le=999)

    def network(self) -> type[LoadedUNet]:
        from ditf.backbones.networks.unet import LoadedUNet  # imports torch, which settings do without

        return LoadedUNet

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        widths = list(config["block_out_channels"])
        last, layers, time = len(widths) - 1, config["layers_per_block"], 4 * widths[0]
        depths = config["transformer_layers_per_block"]
        depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
        stride = LATENT_STRIDE * 2 ** max(0, last - 1)

        def pixels(level: int) -> Tokens:
            """Return the number of latents after `level` downsamplings, per token of the first up block."""
            return 0.0, (stride / (LATENT_STRIDE * 2**level)) ** 2

        def resnet(inputs: int, outputs: int, level: int) -> LayerCost:
            cost = convolution(inputs, outputs, pixels(level)) + convolution(outputs, outputs, pixels(level))
            cost += linear(time, outputs, ONCE)
            return cost + linear(inputs, outputs, pixels(level)) if inputs != outputs else cost

        def transformer(width: int, level: int, depth: int) -> LayerCost:
            image, words = pixels(level), text(TEXT_TOKENS)
            layer = linear(width, width, image) * 6 + linear(config["cross_attention_dim"], width, words) * 2
            layer += attention(width, image, image) + attention(width, image, words)
            layer += linear(width, 8 * width, image) + linear(4 * width, width, image)
            return layer * depth + linear(width, width, image) * 2

        outside = convolution(config["in_channels"], widths[0], pixels(0)) + mlp(widths[0], time, time, ONCE)
        if config["projection_class_embeddings_input_dim"]:
            outside += mlp(config["projection_class_embeddings_input_dim"], time, time, ONCE)
        skips, width = [widths[0]], widths[0]
        for level, kind in enumerate(config["down_block_types"]):
            for _ in range(layers):
                outside += resnet(width, widths[level], level)
                width = widths[level]
                if "CrossAttn" in kind:
                    outside += transformer(width, level, depths[level])
                skips.append(width)
            if level < last:
                outside += convolution(width, width, pixels(level + 1))
                skips.append(width)
        outside += resnet(width, width, last) * 2 + transformer(width, last, depths[last])
        blocks = []
        for level, kind in zip(range(last, -1, -1), config["up_block_types"], strict=True):
            block = LayerCost()
            for _ in range(layers + 1):
                block += resnet(width + skips.pop(), widths[level], level)
                width = widths[level]
                if "CrossAttn" in kind:
                    block += transformer(width, level, depths[level])
            if level > 0:
                block += convolution(width, width, pixels(level - 1))
            blocks.append(block)
        strides = [LATENT_STRIDE * 2 ** max(0, last - 1 - number) for number in range(len(widths))]
        return Architecture(
            stride=stride,
            channels=widths[-1],
            outside=outside,
            blocks=blocks,
            text_tokens=TEXT_TOKENS,
            shapes=list(zip(strides, reversed(widths), strict=True)),
            captures_output=True,
            activations=ACTIVATIONS_PER_CHANNEL * widths[0] * (stride // LATENT_STRIDE) ** 2,
        )
