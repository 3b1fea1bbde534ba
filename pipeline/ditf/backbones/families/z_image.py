"""Z-Image: a rectified-flow transformer that processes image and text as one sequence.

Two refiner blocks for the image and two for the text come before the blocks. The feature of a block is the image part
of the residual stream that enters it. The AdaLN of a block scales an RMS norm and shifts nothing. Paper: Z-Image Team,
"Z-Image" (arXiv 2511.22699).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.cost import (
    IMAGE,
    ONCE,
    Architecture,
    LayerCost,
    Tokens,
    attention,
    image_and_text,
    linear,
    mlp,
    text,
)
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.z_image import LoadedZImage

TEXT_TOKENS = 32  # of a typical prompt; the length is not fixed


class ZImage(Diffusion):
    """Z-Image and Z-Image-Turbo. The default block is the middle one of their 30.

    Attributes:
        blocks: Blocks whose features are captured, 0 to 29.
        timestep: Timestep, 0 (the image without noise) to 1000. The model itself counts the other way.
    """

    pipelines: ClassVar = ("ZImagePipeline",)
    published: ClassVar = {
        "Tongyi-MAI/Z-Image-Turbo": HubModel("Apache 2.0", 6.15, 30, 3840, 4.0),
        "Tongyi-MAI/Z-Image": HubModel("Apache 2.0", 6.15, 30, 3840, 4.0),
    }
    config_defaults: ClassVar = {
        "in_channels": 16,
        "dim": 3840,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "cap_feat_dim": 2560,
    }

    blocks: Distinct[Block] = Field(default=[15])

    def network(self) -> type[LoadedZImage]:
        from ditf.backbones.networks.z_image import LoadedZImage  # imports torch, which settings do without

        return LoadedZImage

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        width = config["dim"]
        embedding = min(width, 256)
        hidden = int(width / 3 * 8)

        def block(tokens: Tokens) -> LayerCost:
            layers = linear(width, width, tokens) * 4 + attention(width, tokens, tokens)
            return layers + linear(width, hidden, tokens) * 2 + linear(hidden, width, tokens)

        modulation = linear(embedding, 4 * width, ONCE)
        outside = linear(4 * config["in_channels"], width, IMAGE) + mlp(256, 1024, embedding, ONCE)
        outside += linear(config["cap_feat_dim"], width, text(TEXT_TOKENS))
        outside += (block(IMAGE) + modulation + block(text(TEXT_TOKENS))) * config["n_refiner_layers"]
        count = config["n_layers"]
        return Architecture(
            stride=16,
            channels=width,
            outside=outside,
            blocks=[block(image_and_text(TEXT_TOKENS)) + modulation] * count,
            modulations=[modulation] * count,
            text_tokens=TEXT_TOKENS,
        )
