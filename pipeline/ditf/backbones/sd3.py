"""Stable Diffusion 3 and 3.5: rectified flow, joint attention over image and text, three text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones import Block, Published
from ditf.backbones.parts.diffusion import Diffusion, LoadedDiffusion
from ditf.backbones.parts.partial import Layout
from ditf.features.descriptors import DESCRIPTORS, Condition
from ditf.settings import Distinct

if TYPE_CHECKING:
    from torch import Tensor

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
        "stabilityai/stable-diffusion-3.5-medium": Published(COMMUNITY, 2.24, 24, 1536, 5.6, MEDIUM | DUAL),
        "stabilityai/stable-diffusion-3.5-large": Published(COMMUNITY, 8.06, 38, 2432, 5.6, LARGE),
        "stabilityai/stable-diffusion-3.5-large-turbo": Published(COMMUNITY, 8.06, 38, 2432, 5.6, LARGE),
        "stabilityai/stable-diffusion-3-medium-diffusers": Published(COMMUNITY, 2.03, 24, 1536, 5.6, MEDIUM),
    }

    blocks: Distinct[Block] = Field(default=[12])

    def loaded(self) -> type[LoadedSD3]:
        return LoadedSD3

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Both CLIPs' and T5's embeddings, 77 + 256 tokens, and both pooled CLIP vectors."""
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompt=prompt, prompt_2=None, prompt_3=None, device=device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds[0], "pooled": pooled[0]}


class LoadedSD3(LoadedDiffusion):
    """Each block has its own AdaLN; those with two attentions have a second one, which is not the descriptor's."""

    layout = Layout("SD3Transformer2DModel", modulation=("norm1",))
    conditions = ("both", "t", "c")

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.model.config
        return {"prompt_embeds": (333, config.joint_attention_dim), "pooled": (config.pooled_projection_dim,)}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "hidden_states": latents,
            "encoder_hidden_states": text["prompt_embeds"],
            "pooled_projections": text["pooled"],
            "timestep": self.timesteps(len(latents)),
        }

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        layers, pooled, time = self.model.time_text_embed, text["pooled"], self.timesteps(1)
        if condition == "c":
            return layers.text_embedder(pooled)
        if condition == "t":
            return layers.timestep_embedder(layers.time_proj(time).to(self.dtype))
        return layers(time, pooled)

    def adaln(self, block: int, embedding: Any) -> Tensor:
        norm: Any = self.block(block).norm1
        found: Tensor = norm.linear(norm.silu(embedding))
        return found
