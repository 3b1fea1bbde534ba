"""FLUX.1: image, text and timestep in; features and AdaLN modulation at chosen blocks out.

Method: Gan et al., arXiv 2505.18584.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, FiniteFloat

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct
from ditf.types import DESCRIPTORS

if TYPE_CHECKING:
    from ditf.backbones.networks.flux import LoadedFlux

DEV = {"guidance_embeds": True}


class Flux(Diffusion):
    """FLUX.1-dev, -schnell, and finetunes of them. The defaults are the paper's settings for SPair-71k.

    timestep: t in 0..1000. guidance: the distilled guidance scale, for models that have it. blocks: counted through
    both kinds; in FLUX.1-dev 0..18 are double, 19..56 single.
    """

    pipelines = ("FluxPipeline",)
    descriptors = DESCRIPTORS
    published: ClassVar = {
        "black-forest-labs/FLUX.1-dev": HubModel("FLUX.1 [dev] Non-Commercial License", 11.9, 57, 3072, 4.9, DEV),
        "black-forest-labs/FLUX.1-schnell": HubModel("Apache 2.0", 11.9, 57, 3072, 4.9),
        "black-forest-labs/FLUX.1-Krea-dev": HubModel("FLUX.1 [dev] Non-Commercial License", 11.9, 57, 3072, 4.9, DEV),
    }

    blocks: Distinct[Block] = Field(default=[28])
    guidance: FiniteFloat = Field(default=3.5, ge=0)

    def network(self) -> type[LoadedFlux]:
        from ditf.backbones.networks.flux import LoadedFlux  # imports torch, which settings do without

        return LoadedFlux
