"""Stable Diffusion 3 and 3.5: rectified flow, joint attention over image and text, three text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Block, HubModel
from ditf.backbones.diffusion.settings import Diffusion
from ditf.settings import Distinct
from ditf.types import DESCRIPTORS

if TYPE_CHECKING:
    from ditf.backbones.networks.sd3 import LoadedSD3

COMMUNITY = "Stability AI Community License"
SIZES: dict[str, Any] = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192}
MEDIUM = SIZES | {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
LARGE = SIZES | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
DUAL = {"dual_attention_layers": list(range(13)), "qk_norm": "rms_norm", "pos_embed_max_size": 384}


class SD3(Diffusion):
    """Stable Diffusion 3 and 3.5. The default block is the middle one of 3.5-medium.

    timestep: t in 0..1000. blocks: 0..23 in the medium models, 0..37 in the large ones.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    descriptors = DESCRIPTORS
    published: ClassVar = {
        "stabilityai/stable-diffusion-3.5-medium": HubModel(COMMUNITY, 2.24, 24, 1536, 5.6, MEDIUM | DUAL),
        "stabilityai/stable-diffusion-3.5-large": HubModel(COMMUNITY, 8.06, 38, 2432, 5.6, LARGE),
        "stabilityai/stable-diffusion-3.5-large-turbo": HubModel(COMMUNITY, 8.06, 38, 2432, 5.6, LARGE),
        "stabilityai/stable-diffusion-3-medium-diffusers": HubModel(COMMUNITY, 2.03, 24, 1536, 5.6, MEDIUM),
    }

    blocks: Distinct[Block] = Field(default=[12])

    def network(self) -> type[LoadedSD3]:
        from ditf.backbones.networks.sd3 import LoadedSD3  # imports torch, which settings do without

        return LoadedSD3
