"""SANA: rectified flow with linear attention, on a deep-compression autoencoder: 32 pixels a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.sana import LoadedSana

SMALL = {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72}
SMALL = SMALL | {"cross_attention_dim": 1152}


class Sana(Diffusion):
    """SANA of 0.6 and 1.6 billion parameters. The default block is the middle one of the larger.

    timestep: t in 0..1000. blocks: 0..19 in the larger, 0..27 in the smaller.
    """

    pipelines = ("SanaPipeline",)
    published: ClassVar = {
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": HubModel(
            "NVIDIA's, non-commercial", 1.6, 20, 2240, 2.6
        ),
        "Efficient-Large-Model/Sana_600M_1024px_diffusers": HubModel(
            "NVIDIA's, non-commercial", 0.592, 28, 1152, 2.6, SMALL
        ),
    }

    blocks: Distinct[Block] = Field(default=[10])

    def network(self) -> type[LoadedSana]:
        from ditf.backbones.networks.sana import LoadedSana  # imports torch, which settings do without

        return LoadedSana
