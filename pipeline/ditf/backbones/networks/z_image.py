"""Z-Image: the arguments of its transformer in diffusers, and the AdaLN of its blocks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.partial import DenoiserLayout
from ditf.types import Condition, Norm


class LoadedZImage(LoadedDiffusion):
    """Z-Image, cut off before the deepest captured block. Image tokens come before text tokens."""

    layout = DenoiserLayout(
        "ZImageTransformer2DModel",
        stacks=("layers",),
        outputs=("all_final_layer",),
        modulation=("adaLN_modulation", "attention_norm1"),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.norm = Norm("rms", self.model.config.norm_eps)

    @staticmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Return the hidden states of Qwen3 before its last layer, for the prompt in its chat template."""
        return {"prompt_embeds": pipeline.encode_prompt(prompt, device, do_classifier_free_guidance=False)[0][0]}

    def width(self) -> int:
        return int(self.model.dim)

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"x": list(latents[:, :, None]), "t": self._time(len(latents)), "cap_feats": list(text["prompt_embeds"])}

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        return hidden[:, :count]

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        return self.model.t_embedder(self._time(1) * self.model.t_scale).to(self.dtype)

    def adaln(self, block: int, embedding: Any) -> Tensor:
        layers: Any = self.block(block)
        scale, gate, *_ = layers.adaLN_modulation(embedding)[0].chunk(4)
        # `Norm` has no weights, so that the scale includes the weights of the model's RMS norm.
        weight = layers.attention_norm1.weight
        return torch.stack([torch.zeros_like(scale), weight * (1 + scale) - 1, gate.tanh()])

    def _time(self, n: int) -> Tensor:
        return 1 - self.timesteps(n) / 1000
