"""FLUX.1: the arguments of its transformer in diffusers, and the AdaLN of its blocks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import patches, positions, tokens
from ditf.backbones.partial import DenoiserLayout
from ditf.types import Condition

TEXT_TOKENS = 512


class LoadedFlux(LoadedDiffusion):
    """FLUX.1, cut off before the deepest captured block. Every block has its own AdaLN layer."""

    layout = DenoiserLayout(
        "FluxTransformer2DModel", ("transformer_blocks", "single_transformer_blocks"), modulation=("norm1", "norm")
    )
    conditions = ("both", "t", "c")

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return T5 embeddings of 512 tokens, padded and without attention mask, and the pooled CLIP vector."""
        length = min(TEXT_TOKENS, pipeline.tokenizer_2.model_max_length)
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt=prompt, prompt_2=None, device=device, max_sequence_length=length
        )
        return {"prompt_embeds": embeds[0], "pooled": pooled[0]}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        n, _, h, w = latents.shape
        words = text["prompt_embeds"]
        return {
            "hidden_states": tokens(patches(latents)),
            "encoder_hidden_states": words,
            "pooled_projections": text["pooled"],
            "timestep": self.full(n, self.settings.timestep / 1000),
            "guidance": self._guidance(n),
            "img_ids": positions(h // 2, w // 2).to(self.device, self.dtype),
            "txt_ids": torch.zeros(words.shape[1], 3, device=self.device, dtype=self.dtype),
        }

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        layers, pooled = self.model.time_text_embed, text["pooled"]
        if condition == "c":
            return layers.text_embedder(pooled)
        time, scale = self.full(1, self.settings.timestep / 1000) * 1000, self._guidance(1)
        if condition == "both":
            return layers(time, pooled) if scale is None else layers(time, scale * 1000, pooled)
        embedding = layers.timestep_embedder(layers.time_proj(time).to(self.dtype))
        if scale is not None:
            embedding += layers.guidance_embedder(layers.time_proj(scale * 1000).to(self.dtype))
        return embedding

    def adaln(self, block: int, embedding: Any) -> Tensor:
        layers = self.block(block)
        norm: Any = getattr(layers, "norm1", None) or layers.norm
        modulation: Tensor = norm.linear(norm.silu(embedding))
        return modulation

    def _guidance(self, n: int) -> Tensor | None:
        return self.full(n, self.settings.guidance) if self.model.config.guidance_embeds else None
