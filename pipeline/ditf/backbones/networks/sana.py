"""SANA: the arguments of its transformer in diffusers, and its AdaLN-single."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.partial import DenoiserLayout
from ditf.types import Condition


class LoadedSana(LoadedDiffusion):
    """SANA, cut off before the deepest captured block. Each block adds its own table to the shared modulation."""

    layout = DenoiserLayout(
        "SanaTransformer2DModel",
        outputs=("norm_out", "proj_out", "scale_shift_table"),
        modulation=("scale_shift_table",),
    )
    patch = 1
    published_stride = 32

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return Gemma's embeddings and their attention mask, 300 tokens, with the pipeline's own instruction."""
        instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompt=prompt,
            device=device,
            do_classifier_free_guidance=False,
            complex_human_instruction=instruction,
        )
        return {"prompt_embeds": embeds[0], "mask": mask[0]}

    def width(self) -> int:
        return int(self.model.config.num_attention_heads * self.model.config.attention_head_dim)

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
        modulation: Tensor = table + embedding.reshape(6, -1)
        return modulation
