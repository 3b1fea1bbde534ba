"""PixArt-alpha and PixArt-Sigma: diffusion transformers with cross-attention to the text.

All blocks share one modulation (AdaLN-single). Each block adds learned values to it. The feature of a block is the
residual stream that enters it. Papers: Chen et al., arXiv 2310.00426 (alpha) and 2403.04692 (Sigma).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import IMAGE, ONCE, Architecture, LayerCost, attention, linear, mlp, text
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.pixart import LoadedPixArt

LICENCE = "CreativeML Open RAIL++-M"
XL = {"caption_channels": 4096, "sample_size": 128}
SIGMA = XL | {"use_additional_conditions": False}
TEXT_TOKENS = 300


class PixArt(Diffusion):
    """PixArt-alpha and PixArt-Sigma. The default block is the middle one of their 28.

    Attributes:
        blocks: Blocks whose features are captured, 0 to 27.
        timestep: Timestep, 0 to 999.
    """

    pipelines: ClassVar = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    published: ClassVar = {
        "PixArt-alpha/PixArt-XL-2-512x512": HubModel(LICENCE, 0.611, 28, 1152, 4.8, XL | {"sample_size": 64}),
        "PixArt-alpha/PixArt-XL-2-1024-MS": HubModel(LICENCE, 0.611, 28, 1152, 4.8, XL),
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": HubModel(LICENCE, 0.611, 28, 1152, 4.8, SIGMA),
    }
    config_defaults: ClassVar = {
        "in_channels": 4,
        "num_layers": 28,
        "attention_head_dim": 72,
        "num_attention_heads": 16,
        "cross_attention_dim": 1152,
        "patch_size": 2,
        "sample_size": 128,
        "use_additional_conditions": None,
    }

    blocks: Distinct[Block] = Field(default=[14])
    timestep: int = Field(default=260, ge=0, le=999)

    def network(self) -> type[LoadedPixArt]:
        from ditf.backbones.networks.pixart import LoadedPixArt  # imports torch, which settings do without

        return LoadedPixArt

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        width, words = config["num_attention_heads"] * config["attention_head_dim"], text(TEXT_TOKENS)
        embeds_size = config["use_additional_conditions"]
        if embeds_size is None:
            embeds_size = config["sample_size"] == 128
        outside = linear(config["in_channels"] * config["patch_size"] ** 2, width, IMAGE)
        outside += mlp(config["caption_channels"], width, width, words)
        outside += mlp(256, width, width, ONCE) + linear(width, 6 * width, ONCE)
        if embeds_size:
            outside += mlp(256, width // 3, width // 3, ONCE) * 2
        table = LayerCost(6 * width)
        block = table + linear(width, width, IMAGE) * 4 + attention(width, IMAGE, IMAGE)
        block += linear(width, width, IMAGE) * 2 + linear(config["cross_attention_dim"], width, words) * 2
        block += attention(width, IMAGE, words) + mlp(width, 4 * width, width, IMAGE)
        count = config["num_layers"]
        return Architecture(
            stride=16,
            channels=width,
            outside=outside,
            blocks=[block] * count,
            modulations=[table] * count,
            text_tokens=TEXT_TOKENS,
        )
