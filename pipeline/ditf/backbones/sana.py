"""SANA: rectified flow with linear attention, on a deep-compression autoencoder: 32 pixels a token."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones import Block, Published
from ditf.backbones.parts.diffusion import Diffusion, LoadedDiffusion
from ditf.backbones.parts.partial import Layout
from ditf.features.descriptors import Condition
from ditf.settings import Distinct

if TYPE_CHECKING:
    from torch import Tensor

SMALL = {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72}
SMALL = SMALL | {"cross_attention_dim": 1152}


class Sana(Diffusion):
    """SANA of 0.6 and 1.6 billion parameters. The default block is the middle one of the larger.

    timestep: t in 0..1000. blocks: 0..19 in the larger, 0..27 in the smaller.
    """

    pipelines = ("SanaPipeline",)
    published: ClassVar = {
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": Published(
            "NVIDIA's, non-commercial", 1.6, 20, 2240, 2.6
        ),
        "Efficient-Large-Model/Sana_600M_1024px_diffusers": Published(
            "NVIDIA's, non-commercial", 0.592, 28, 1152, 2.6, SMALL
        ),
    }

    blocks: Distinct[Block] = Field(default=[10])

    def loaded(self) -> type[LoadedSana]:
        return LoadedSana

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Gemma's embeddings and their attention mask, 300 tokens, after the pipeline's own instruction."""
        instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompt=prompt,
            device=device,
            do_classifier_free_guidance=False,
            complex_human_instruction=instruction,
        )
        return {"prompt_embeds": embeds[0], "mask": mask[0]}


class LoadedSana(LoadedDiffusion):
    """AdaLN-single: one modulation for all blocks, that each shifts by its own table."""

    layout = Layout(
        "SanaTransformer2DModel",
        outputs=("norm_out", "proj_out", "scale_shift_table"),
        modulation=("scale_shift_table",),
    )
    patch = 1
    published_stride = 32

    def width(self) -> int:
        return int(self.model.config.num_attention_heads * self.model.config.attention_head_dim)

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (300, self.model.config.caption_channels), "mask": (300,)}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "hidden_states": latents,
            "encoder_hidden_states": text["prompt_embeds"],
            "encoder_attention_mask": text["mask"],
            "timestep": self.timesteps(len(latents)) * self.model.config.timestep_scale,
        }

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        time = self.timesteps(1) * self.model.config.timestep_scale
        return self.model.time_embed(time, batch_size=1, hidden_dtype=self.dtype)[0]

    def adaln(self, block: int, embedding: Any) -> Tensor:
        table: Any = self.block(block).scale_shift_table
        found: Tensor = table + embedding.reshape(6, -1)
        return found
