"""SANA: a rectified-flow transformer with linear attention, on an autoencoder of 32 pixels per latent.

All blocks share one modulation (AdaLN-single). Each block adds learned values to it. The feature of a block is the
residual stream that enters it. Paper: Xie et al., arXiv 2410.10629.
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
    from ditf.backbones.networks.sana import LoadedSana

LICENCE = "NVIDIA's, non-commercial"
SMALL = {
    "num_attention_heads": 36,
    "num_layers": 28,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
TEXT_TOKENS = 300


class Sana(Diffusion):
    """SANA of 0.6 and 1.6 billion parameters. The default block is the middle one of the larger model.

    Attributes:
        blocks: Blocks whose features are captured: 0 to 19 in the larger model, 0 to 27 in the smaller one.
    """

    pipelines: ClassVar = ("SanaPipeline",)
    published: ClassVar = {
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": HubModel(LICENCE, 1.6, 20, 2240, 2.6),
        "Efficient-Large-Model/Sana_600M_1024px_diffusers": HubModel(LICENCE, 0.592, 28, 1152, 2.6, SMALL),
    }
    config_defaults: ClassVar = {
        "in_channels": 32,
        "num_layers": 20,
        "attention_head_dim": 32,
        "num_attention_heads": 70,
        "cross_attention_dim": 2240,
        "caption_channels": 2304,
        "mlp_ratio": 2.5,
    }

    blocks: Distinct[Block] = Field(default=[10])

    def network(self) -> type[LoadedSana]:
        from ditf.backbones.networks.sana import LoadedSana  # imports torch, which settings do without

        return LoadedSana

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        head, words = config["attention_head_dim"], text(TEXT_TOKENS)
        width = config["num_attention_heads"] * head
        hidden = config["mlp_ratio"] * width
        outside = linear(config["in_channels"], width, IMAGE) + mlp(config["caption_channels"], width, width, words)
        outside += mlp(256, width, width, ONCE) + linear(width, 6 * width, ONCE)
        table = LayerCost(6 * width)
        block = table + linear(width, width, IMAGE) * 4
        block += LayerCost(0.0, (0.0, 4.0 * width * (head + 1), 0.0))  # linear attention
        block += linear(width, width, IMAGE) * 2 + linear(config["cross_attention_dim"], width, words) * 2
        block += attention(width, IMAGE, words)
        block += linear(width, 2 * hidden, IMAGE) + linear(9, 2 * hidden, IMAGE) + linear(hidden, width, IMAGE)
        count = config["num_layers"]
        return Architecture(
            stride=32,
            channels=width,
            outside=outside,
            blocks=[block] * count,
            modulations=[table] * count,
            text_tokens=TEXT_TOKENS,
        )
