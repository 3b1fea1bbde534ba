"""Stable Diffusion 3: the arguments of its transformer in diffusers, and the AdaLN of its blocks."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.partial import DenoiserLayout
from ditf.backbones.source import Model
from ditf.types import Condition


class LoadedSD3(LoadedDiffusion):
    """Stable Diffusion 3, cut off before the deepest captured block.

    Every block has its own AdaLN. Blocks with two attentions have a second one, which the descriptor does not use.
    """

    layout = DenoiserLayout("SD3Transformer2DModel", modulation=("norm1",))
    conditions = ("both", "t", "c")

    @classmethod
    def prepare_pipeline(cls, pipeline: Any, model: Model) -> None:
        # Without T5, diffusers fills its tokens with zeros whose width it reads from the transformer's configuration.
        if pipeline.text_encoder_3 is None:
            config = cls.layout.config(model.component("transformer", ()))
            pipeline.transformer = SimpleNamespace(config=SimpleNamespace(**config))

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return the embeddings of both CLIP encoders and T5, 77 + 256 tokens, and both pooled CLIP vectors."""
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompt=prompt, prompt_2=None, prompt_3=None, device=device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds[0], "pooled": pooled[0]}

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
        modulation: Tensor = norm.linear(norm.silu(embedding))
        return modulation
