"""FLUX.1: a rectified-flow transformer of double blocks, then single blocks.

A double block has separate weights for image and text; a single block processes both as one sequence. The feature of a
block is the image part of the residual stream that enters it, and its descriptor applies the block's own AdaLN.
Method: Gan et al., "Unleashing Diffusion Transformers for Visual Correspondence by Modulating Massive Activations"
(NeurIPS 2025, arXiv 2505.18584).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, FiniteFloat

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import IMAGE, ONCE, Architecture, attention, image_and_text, linear, mlp, text
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct
from ditf.types import DESCRIPTORS

if TYPE_CHECKING:
    from ditf.backbones.networks.flux import LoadedFlux

DEV = {"guidance_embeds": True}
DEV_LICENCE = "FLUX.1 [dev] Non-Commercial License"
TEXT_TOKENS = 512


class Flux(Diffusion):
    """FLUX.1-dev, -schnell and finetunes of them. The defaults are the paper's settings for SPair-71k.

    Attributes:
        blocks: Blocks whose features are captured. In FLUX.1-dev, 0 to 18 are double and 19 to 56 are single blocks.
        guidance: Distilled guidance scale, for models that have it.
    """

    pipelines: ClassVar = ("FluxPipeline",)
    descriptors: ClassVar = DESCRIPTORS
    published: ClassVar = {
        "black-forest-labs/FLUX.1-dev": HubModel(DEV_LICENCE, 11.9, 57, 3072, 4.9, DEV),
        "black-forest-labs/FLUX.1-schnell": HubModel("Apache 2.0", 11.9, 57, 3072, 4.9),
        "black-forest-labs/FLUX.1-Krea-dev": HubModel(DEV_LICENCE, 11.9, 57, 3072, 4.9, DEV),
    }
    config_defaults: ClassVar = {
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": False,
    }

    blocks: Distinct[Block] = Field(default=[28])
    guidance: FiniteFloat = Field(default=3.5, ge=0)

    def network(self) -> type[LoadedFlux]:
        from ditf.backbones.networks.flux import LoadedFlux  # imports torch, which settings do without

        return LoadedFlux

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        width, both = config["num_attention_heads"] * config["attention_head_dim"], image_and_text(TEXT_TOKENS)
        streams = (IMAGE, text(TEXT_TOKENS))
        outside = linear(config["in_channels"], width, IMAGE)
        outside += linear(config["joint_attention_dim"], width, text(TEXT_TOKENS))
        outside += mlp(config["pooled_projection_dim"], width, width, ONCE)
        outside += mlp(256, width, width, ONCE) * (2 if config["guidance_embeds"] else 1)
        double_modulation = linear(width, 6 * width, ONCE)
        double = double_modulation * 2 + attention(width, both, both)
        for stream in streams:
            double += linear(width, width, stream) * 4 + mlp(width, 4 * width, width, stream)
        single_modulation = linear(width, 3 * width, ONCE)
        single = single_modulation + attention(width, both, both)
        single += linear(width, 7 * width, both) + linear(5 * width, width, both)
        doubles, singles = config["num_layers"], config["num_single_layers"]
        return Architecture(
            stride=16,
            channels=width,
            outside=outside,
            blocks=[double] * doubles + [single] * singles,
            modulations=[double_modulation] * doubles + [single_modulation] * singles,
            text_tokens=TEXT_TOKENS,
        )
