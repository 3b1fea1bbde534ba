"""Qwen-Image: a rectified-flow transformer with joint attention over the image and the text of Qwen2.5-VL.

The feature of a block is the image stream that enters it; each block has an AdaLN layer of its own for that stream.
Paper: Wu et al., "Qwen-Image Technical Report" (arXiv 2508.02324).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import IMAGE, ONCE, Architecture, attention, image_and_text, linear, mlp, text
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.qwen_image import LoadedQwenImage

TEXT_TOKENS = 32  # of a typical prompt; the length is not fixed


class QwenImage(Diffusion):
    """Qwen-Image. The default block is the middle one of its 60.

    Attributes:
        blocks: Blocks whose features are captured, 0 to 59.
    """

    pipelines: ClassVar = ("QwenImagePipeline",)
    published: ClassVar = {
        "Qwen/Qwen-Image": HubModel("Apache 2.0", 20.4, 60, 3072, 8.3),
        "Qwen/Qwen-Image-2512": HubModel("Apache 2.0", 20.4, 60, 3072, 8.3),
    }
    config_defaults: ClassVar = {
        "in_channels": 64,
        "num_layers": 60,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 3584,
    }

    blocks: Distinct[Block] = Field(default=[30])

    def network(self) -> type[LoadedQwenImage]:
        from ditf.backbones.networks.qwen_image import LoadedQwenImage  # imports torch, which settings do without

        return LoadedQwenImage

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        width, both = config["num_attention_heads"] * config["attention_head_dim"], image_and_text(TEXT_TOKENS)
        outside = linear(config["in_channels"], width, IMAGE) + mlp(256, width, width, ONCE)
        outside += linear(config["joint_attention_dim"], width, text(TEXT_TOKENS))
        modulation = linear(width, 6 * width, ONCE)
        block = modulation * 2 + attention(width, both, both)
        for stream in (IMAGE, text(TEXT_TOKENS)):
            block += linear(width, width, stream) * 4 + mlp(width, 4 * width, width, stream)
        count = config["num_layers"]
        return Architecture(
            stride=16,
            channels=width,
            outside=outside,
            blocks=[block] * count,
            modulations=[modulation] * count,
            text_tokens=TEXT_TOKENS,
        )
