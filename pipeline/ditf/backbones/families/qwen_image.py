"""Qwen-Image: rectified flow with joint attention; the text is Qwen2.5-VL's, the autoencoder is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct

if TYPE_CHECKING:
    from ditf.backbones.networks.qwen_image import LoadedQwenImage


class QwenImage(Diffusion):
    """Qwen-Image. The default block is the middle one of its 60.

    timestep: t in 0..1000.
    """

    pipelines = ("QwenImagePipeline",)
    published: ClassVar = {
        "Qwen/Qwen-Image": HubModel("Apache 2.0", 20.4, 60, 3072, 8.3),
        "Qwen/Qwen-Image-2512": HubModel("Apache 2.0", 20.4, 60, 3072, 8.3),
    }

    blocks: Distinct[Block] = Field(default=[30])

    def network(self) -> type[LoadedQwenImage]:
        from ditf.backbones.networks.qwen_image import LoadedQwenImage  # imports torch, which settings do without

        return LoadedQwenImage
