"""Stable Diffusion 3 and 3.5: rectified-flow transformers with joint attention over image and text.

The feature of a block is the image stream that enters it; its descriptor applies the AdaLN before the block's joint
attention. Paper: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (arXiv
2403.03206).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import IMAGE, ONCE, Architecture, LayerCost, attention, image_and_text, linear, mlp, text
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct
from ditf.types import DESCRIPTORS

if TYPE_CHECKING:
    from ditf.backbones.networks.sd3 import LoadedSD3

LICENCE = "Stability AI Community License"
SIZES: dict[str, Any] = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192}
MEDIUM = SIZES | {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
LARGE = SIZES | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
DUAL = {"dual_attention_layers": list(range(13)), "qk_norm": "rms_norm", "pos_embed_max_size": 384}
TEXT_TOKENS = 333  # 77 of the CLIP encoders and 256 of T5


class SD3(Diffusion):
    """Stable Diffusion 3 and 3.5. The default block is the middle one of 3.5-medium.

    Attributes:
        blocks: Blocks whose features are captured: 0 to 23 in the medium models, 0 to 37 in the large ones.
    """

    pipelines: ClassVar = ("StableDiffusion3Pipeline",)
    descriptors: ClassVar = DESCRIPTORS
    published: ClassVar = {
        "stabilityai/stable-diffusion-3.5-medium": HubModel(LICENCE, 2.24, 24, 1536, 5.6, MEDIUM | DUAL),
        "stabilityai/stable-diffusion-3.5-large": HubModel(LICENCE, 8.06, 38, 2432, 5.6, LARGE),
        "stabilityai/stable-diffusion-3.5-large-turbo": HubModel(LICENCE, 8.06, 38, 2432, 5.6, LARGE),
        "stabilityai/stable-diffusion-3-medium-diffusers": HubModel(LICENCE, 2.03, 24, 1536, 5.6, MEDIUM),
    }
    config_defaults: ClassVar = {
        "in_channels": 16,
        "num_layers": 18,
        "patch_size": 2,
        "attention_head_dim": 64,
        "num_attention_heads": 18,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1152,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 96,
        "dual_attention_layers": (),
    }

    blocks: Distinct[Block] = Field(default=[12])

    def network(self) -> type[LoadedSD3]:
        from ditf.backbones.networks.sd3 import LoadedSD3  # imports torch, which settings do without

        return LoadedSD3

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        width, both = config["num_attention_heads"] * config["attention_head_dim"], image_and_text(TEXT_TOKENS)
        outside = linear(config["in_channels"] * config["patch_size"] ** 2, width, IMAGE)
        outside += LayerCost(width * config["pos_embed_max_size"] ** 2)
        outside += linear(config["joint_attention_dim"], width, text(TEXT_TOKENS))
        outside += mlp(256, width, width, ONCE) + mlp(config["pooled_projection_dim"], width, width, ONCE)
        blocks, modulations = [], []
        for number in range(config["num_layers"]):
            has_two_attentions = number in config["dual_attention_layers"]
            modulation = linear(width, (9 if has_two_attentions else 6) * width, ONCE)
            block = modulation + linear(width, 6 * width, ONCE) + attention(width, both, both)
            for stream in (IMAGE, text(TEXT_TOKENS)):
                block += linear(width, width, stream) * 4 + mlp(width, 4 * width, width, stream)
            if has_two_attentions:
                block += linear(width, width, IMAGE) * 4 + attention(width, IMAGE, IMAGE)
            blocks.append(block)
            modulations.append(modulation)
        return Architecture(
            stride=16,
            channels=width,
            outside=outside,
            blocks=blocks,
            modulations=modulations,
            text_tokens=TEXT_TOKENS,
        )
