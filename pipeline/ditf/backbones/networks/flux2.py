"""FLUX.2: the arguments of its transformer in diffusers, and the AdaLN that its blocks share."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import positions, tokens
from ditf.backbones.partial import DenoiserLayout
from ditf.types import Condition


class LoadedFlux2(LoadedDiffusion):
    """FLUX.2, cut off before the deepest captured block. Each latent already covers a square of 2x2."""

    layout = DenoiserLayout("Flux2Transformer2DModel", stacks=("transformer_blocks", "single_transformer_blocks"))
    patch = 1
    published_stride = 16

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return the hidden states of three layers of the language model, concatenated, for 512 tokens."""
        return {"prompt_embeds": pipeline.encode_prompt(prompt=prompt, device=device)[0][0]}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        n, _, h, w = latents.shape
        words = text["prompt_embeds"]
        text_ids = torch.zeros(words.shape[1], 4)
        text_ids[:, 3] = torch.arange(words.shape[1])
        return {
            "hidden_states": tokens(latents),
            "encoder_hidden_states": words,
            "timestep": self.full(n, self.settings.timestep / 1000),
            "guidance": self._guidance(n),
            "img_ids": positions(h, w, 4).to(self.device),
            "txt_ids": text_ids.to(self.device),
        }

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        return hidden[:, -count:]  # in single blocks, the text comes first

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        guidance = self._guidance(1)
        time = self.full(1, self.settings.timestep / 1000) * 1000
        return self.model.time_guidance_embed(time, None if guidance is None else guidance * 1000)

    def adaln(self, block: int, embedding: Any) -> Tensor:
        double = block < self.model.config.num_layers
        layer = self.model.double_stream_modulation_img if double else self.model.single_stream_modulation
        modulation: Tensor = layer(embedding)
        return modulation

    def _guidance(self, n: int) -> Tensor | None:
        return self.full(n, self.settings.guidance) if self.model.config.guidance_embeds else None
