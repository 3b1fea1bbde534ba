"""PixArt: the arguments of its transformer in diffusers, and its AdaLN-single."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.schedule import scheduler_noise
from ditf.backbones.diffusion.settings import Diffusion
from ditf.backbones.partial import DenoiserLayout
from ditf.backbones.source import Model
from ditf.types import Condition


class LoadedPixArt(LoadedDiffusion):
    """PixArt, cut off before the deepest captured block.

    The modulation of the 1024-pixel models of PixArt-alpha depends on the size of the image, which they embed.
    """

    layout = DenoiserLayout(
        "PixArtTransformer2DModel",
        outputs=("norm_out", "proj_out", "scale_shift_table"),
        modulation=("scale_shift_table",),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.modulation_depends_on_size = bool(self.model.use_additional_conditions)

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return T5 embeddings and their attention mask: 120 tokens for alpha, 300 for Sigma."""
        embeds, mask, _, _ = pipeline.encode_prompt(prompt=prompt, device=device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0], "mask": mask[0]}

    @classmethod
    def schedule(cls, settings: Diffusion, model: Model) -> tuple[float, float]:
        return scheduler_noise(model, settings.timestep)

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "hidden_states": latents,
            "encoder_hidden_states": text["prompt_embeds"],
            "encoder_attention_mask": text["mask"],
            "timestep": self.timesteps(len(latents)),
            "added_cond_kwargs": self._size(len(latents), latents.shape[-2:]),
        }

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        time = self.timesteps(1)
        return self.model.adaln_single(time, self._size(1, latents), batch_size=1, hidden_dtype=self.dtype)[0]

    def adaln(self, block: int, embedding: Any) -> Tensor:
        table: Any = self.block(block).scale_shift_table
        modulation: Tensor = table + embedding.reshape(6, -1)
        return modulation

    def _size(self, n: int, latents: tuple[int, ...]) -> dict[str, Tensor | None]:
        if not self.modulation_depends_on_size:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.stride // self.patch for side in latents)
        values = {"resolution": [height, width], "aspect_ratio": [height / width]}
        return {k: torch.tensor(v, dtype=self.dtype, device=self.device).expand(n, -1) for k, v in values.items()}
