"""FLUX.2: rectified flow on latents of 32 channels; all blocks of a kind share one AdaLN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, FiniteFloat

from ditf.backbones import Block, Published
from ditf.backbones.parts.diffusion import Diffusion, LoadedDiffusion
from ditf.backbones.parts.partial import Layout
from ditf.features.descriptors import Condition
from ditf.settings import Distinct

if TYPE_CHECKING:
    from torch import Tensor

KLEIN = {"guidance_embeds": False}
KLEIN_4B = KLEIN | {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = KLEIN | {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}


class Flux2(Diffusion):
    """FLUX.2-dev and -klein. The default block is the middle one of klein of 4 billion parameters.

    timestep: t in 0..1000. guidance: the distilled guidance scale, for models that have it. blocks: counted through
    both kinds: in -dev 0..7 are double and 8..55 single, in klein-4B 0..4 and 5..24, in klein-9B 0..7 and 8..31.
    """

    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    published: ClassVar = {
        "black-forest-labs/FLUX.2-dev": Published("FLUX [dev] Non-Commercial License", 32.2, 56, 6144, 24.0),
        "black-forest-labs/FLUX.2-klein-4B": Published("Apache 2.0", 3.88, 25, 3072, 4.0, KLEIN_4B),
        "black-forest-labs/FLUX.2-klein-9B": Published("FLUX Non-Commercial License", 9.08, 32, 4096, 8.2, KLEIN_9B),
    }

    blocks: Distinct[Block] = Field(default=[12])
    guidance: FiniteFloat = Field(default=4.0, ge=0)

    def loaded(self) -> type[LoadedFlux2]:
        return LoadedFlux2

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Hidden states of three layers of the language model, side by side, 512 tokens."""
        return {"prompt_embeds": pipeline.encode_prompt(prompt=prompt, device=device)[0][0]}


class LoadedFlux2(LoadedDiffusion):
    """Double blocks, then single blocks; the encoder gives latents of 2x2 squares already."""

    layout = Layout("Flux2Transformer2DModel", stacks=("transformer_blocks", "single_transformer_blocks"))
    patch = 1
    published_stride = 16

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (512, self.model.config.joint_attention_dim)}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        import torch

        from ditf.backbones.parts.latents import positions, tokens

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
        found: Tensor = layer(embedding)
        return found

    def _guidance(self, n: int) -> Tensor | None:
        return self.full(n, self.settings.guidance) if self.model.config.guidance_embeds else None
