"""PixArt-alpha and PixArt-Sigma: a DDPM with AdaLN-single, one modulation for all blocks that each shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.pixart import LoadedPixArt

RAIL = "CreativeML Open RAIL++-M"
XL = {"caption_channels": 4096, "sample_size": 128}


class PixArt(Diffusion):
    """PixArt-alpha and PixArt-Sigma. The default block is the middle one of their 28.

    timestep: t in 0..999.
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    published: ClassVar = {
        "PixArt-alpha/PixArt-XL-2-512x512": HubModel(RAIL, 0.611, 28, 1152, 4.8, XL | {"sample_size": 64}),
        "PixArt-alpha/PixArt-XL-2-1024-MS": HubModel(RAIL, 0.611, 28, 1152, 4.8, XL),
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": HubModel(
            RAIL, 0.611, 28, 1152, 4.8, XL | {"use_additional_conditions": False}
        ),
    }

    blocks: Distinct[Block] = Field(default=[14])
    timestep: int = Field(default=260, ge=0, le=999)

    def network(self) -> type[LoadedPixArt]:
        from ditf.backbones.networks.pixart import LoadedPixArt  # imports torch, which settings do without

        return LoadedPixArt
