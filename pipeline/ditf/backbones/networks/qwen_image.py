"""Qwen-Image: the arguments of its transformer in diffusers, and the AdaLN of its blocks."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import patches, tokens
from ditf.backbones.partial import DenoiserLayout
from ditf.types import Condition


class LoadedQwenImage(LoadedDiffusion):
    """Qwen-Image, cut off before the deepest captured block. Each block has an AdaLN layer for its image stream."""

    layout = DenoiserLayout("QwenImageTransformer2DModel", modulation=("img_mod",))

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return the last hidden states of Qwen2.5-VL for the prompt, without the tokens of the chat template."""
        return {"prompt_embeds": pipeline.encode_prompt(prompt=prompt, device=device)[0][0]}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        n, _, h, w = latents.shape
        return {
            "hidden_states": tokens(patches(latents)),
            "encoder_hidden_states": text["prompt_embeds"],
            "timestep": self.full(n, self.settings.timestep / 1000),
            "img_shapes": [[(1, h // 2, w // 2)]] * n,
        }

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        time = self.full(1, self.settings.timestep / 1000)
        return self.model.time_text_embed(time, time)

    def adaln(self, block: int, embedding: Any) -> Tensor:
        layer: Any = self.block(block).img_mod
        modulation: Tensor = layer(embedding)
        return modulation
