"""FLUX.2: rectified flow on latents of 32 channels; all blocks of a kind share one AdaLN."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, FiniteFloat

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.flux2 import LoadedFlux2

KLEIN = {"guidance_embeds": False}
KLEIN_4B = KLEIN | {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = KLEIN | {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}


class Flux2(Diffusion):
    """FLUX.2-dev and -klein. The default block is the middle one of klein of 4 billion parameters.

    timestep: t in 0..1000. guidance: the distilled guidance scale, for models that have it. blocks: counted through
    both kinds: in -dev 0..7 are double and 8..55 single, in klein-4B 0..4 and 5..24, in klein-9B 0..7 and 8..31.
    """

    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    published: ClassVar = {
        "black-forest-labs/FLUX.2-dev": HubModel("FLUX [dev] Non-Commercial License", 32.2, 56, 6144, 24.0),
        "black-forest-labs/FLUX.2-klein-4B": HubModel("Apache 2.0", 3.88, 25, 3072, 4.0, KLEIN_4B),
        "black-forest-labs/FLUX.2-klein-9B": HubModel("FLUX Non-Commercial License", 9.08, 32, 4096, 8.2, KLEIN_9B),
    }

    blocks: Distinct[Block] = Field(default=[12])
    guidance: FiniteFloat = Field(default=4.0, ge=0)

    def network(self) -> type[LoadedFlux2]:
        from ditf.backbones.networks.flux2 import LoadedFlux2  # imports torch, which settings do without

        return LoadedFlux2
