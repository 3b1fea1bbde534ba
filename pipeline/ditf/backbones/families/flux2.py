"""FLUX.2: a rectified-flow transformer of double blocks, then single blocks, on latents of 32 channels.

All double blocks share one AdaLN modulation, and all single blocks another. The feature of a block is the image part of
the residual stream that enters it. Model: https://github.com/black-forest-labs/flux2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, FiniteFloat

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import IMAGE, ONCE, Architecture, attention, image_and_text, linear, mlp, text
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.flux2 import LoadedFlux2

KLEIN = {"guidance_embeds": False}
KLEIN_4B = KLEIN | {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = KLEIN | {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
TEXT_TOKENS = 512


class Flux2(Diffusion):
    """FLUX.2-dev and -klein. The default block is the middle one of klein-4B.

    Attributes:
        blocks: Blocks whose features are captured. Double blocks come first: 0 to 7 in -dev and klein-9B, 0 to 4 in
            klein-4B. Single blocks follow, up to 55 in -dev, 31 in klein-9B and 24 in klein-4B.
        guidance: Distilled guidance scale, for models that have it.
    """

    pipelines: ClassVar = ("Flux2Pipeline", "Flux2KleinPipeline")
    published: ClassVar = {
        "black-forest-labs/FLUX.2-dev": HubModel("FLUX [dev] Non-Commercial License", 32.2, 56, 6144, 24.0),
        "black-forest-labs/FLUX.2-klein-4B": HubModel("Apache 2.0", 3.88, 25, 3072, 4.0, KLEIN_4B),
        "black-forest-labs/FLUX.2-klein-9B": HubModel("FLUX Non-Commercial License", 9.08, 32, 4096, 8.2, KLEIN_9B),
    }
    config_defaults: ClassVar = {
        "in_channels": 128,
        "num_layers": 8,
        "num_single_layers": 48,
        "attention_head_dim": 128,
        "num_attention_heads": 48,
        "joint_attention_dim": 15360,
        "mlp_ratio": 3.0,
        "guidance_embeds": True,
    }

    blocks: Distinct[Block] = Field(default=[12])
    guidance: FiniteFloat = Field(default=4.0, ge=0)

    def network(self) -> type[LoadedFlux2]:
        from ditf.backbones.networks.flux2 import LoadedFlux2  # imports torch, which settings do without

        return LoadedFlux2

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        width, both = config["num_attention_heads"] * config["attention_head_dim"], image_and_text(TEXT_TOKENS)
        hidden = config["mlp_ratio"] * width
        outside = linear(config["in_channels"], width, IMAGE)
        outside += linear(config["joint_attention_dim"], width, text(TEXT_TOKENS))
        outside += mlp(256, width, width, ONCE) * (2 if config["guidance_embeds"] else 1)
        outside += linear(width, 6 * width, ONCE) * 2 + linear(width, 3 * width, ONCE)  # the shared modulations
        double = attention(width, both, both)
        for stream in (IMAGE, text(TEXT_TOKENS)):
            double += linear(width, width, stream) * 4
            double += linear(width, 2 * hidden, stream) + linear(hidden, width, stream)
        single = attention(width, both, both)
        single += linear(width, 3 * width + 2 * hidden, both) + linear(width + hidden, width, both)
        return Architecture(
            stride=16,
            channels=width,
            outside=outside,
            blocks=[double] * config["num_layers"] + [single] * config["num_single_layers"],
            text_tokens=TEXT_TOKENS,
        )
