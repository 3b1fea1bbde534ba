"""Qwen-Image: rectified flow with joint attention; the text is Qwen2.5-VL's, the autoencoder is its own."""

from __future__ import annotations

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


class QwenImage(Diffusion):
    """Qwen-Image. The default block is the middle one of its 60.

    timestep: t in 0..1000.
    """

    pipelines = ("QwenImagePipeline",)
    published: ClassVar = {
        "Qwen/Qwen-Image": Published("Apache 2.0", 20.4, 60, 3072, 8.3),
        "Qwen/Qwen-Image-2512": Published("Apache 2.0", 20.4, 60, 3072, 8.3),
    }

    blocks: Distinct[Block] = Field(default=[30])

    def loaded(self) -> type[LoadedQwenImage]:
        return LoadedQwenImage

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Qwen2.5-VL's last hidden states of the prompt's own tokens, without the template's."""
        return {"prompt_embeds": pipeline.encode_prompt(prompt=prompt, device=device)[0][0]}


class LoadedQwenImage(LoadedDiffusion):
    """Each block has a layer of its own that modulates its image stream."""

    layout = Layout("QwenImageTransformer2DModel", modulation=("img_mod",))

    def latent_channels(self) -> int:
        return int(self.model.config.in_channels) // 4  # of squares of 2x2

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (32, self.model.config.joint_attention_dim)}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        from ditf.backbones.parts.latents import patches, tokens

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
        found: Tensor = layer(embedding)
        return found
