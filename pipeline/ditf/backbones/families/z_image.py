"""Z-Image: rectified flow in one stream of image and text; its AdaLN scales an RMS norm, and shifts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.z_image import LoadedZImage


class ZImage(Diffusion):
    """Z-Image and Z-Image-Turbo. The default block is the middle one of their 30.

    timestep: t in 0..1000; 0 is the image without noise, as everywhere here, though the model counts the other way.
    """

    pipelines = ("ZImagePipeline",)
    published: ClassVar = {
        "Tongyi-MAI/Z-Image-Turbo": HubModel("Apache 2.0", 6.15, 30, 3840, 4.0),
        "Tongyi-MAI/Z-Image": HubModel("Apache 2.0", 6.15, 30, 3840, 4.0),
    }

    blocks: Distinct[Block] = Field(default=[15])

    def network(self) -> type[LoadedZImage]:
        from ditf.backbones.networks.z_image import LoadedZImage  # imports torch, which settings do without

        return LoadedZImage
