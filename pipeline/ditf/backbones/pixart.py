"""PixArt-alpha and PixArt-Sigma: a DDPM with AdaLN-single, one modulation for all blocks that each shifts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones import Block, Published
from ditf.backbones.parts.diffusion import Diffusion, LoadedDiffusion, ddpm_schedule
from ditf.backbones.parts.partial import Layout
from ditf.features.descriptors import Condition
from ditf.settings import Distinct

if TYPE_CHECKING:
    from torch import Tensor

    from ditf.models import Model

RAIL = "CreativeML Open RAIL++-M"
XL = {"caption_channels": 4096, "sample_size": 128}


class PixArt(Diffusion):
    """PixArt-alpha and PixArt-Sigma. The default block is the middle one of their 28.

    timestep: t in 0..999.
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    published: ClassVar = {
        "PixArt-alpha/PixArt-XL-2-512x512": Published(RAIL, 0.611, 28, 1152, 4.8, XL | {"sample_size": 64}),
        "PixArt-alpha/PixArt-XL-2-1024-MS": Published(RAIL, 0.611, 28, 1152, 4.8, XL),
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": Published(
            RAIL, 0.611, 28, 1152, 4.8, XL | {"use_additional_conditions": False}
        ),
    }

    blocks: Distinct[Block] = Field(default=[14])
    timestep: int = Field(default=260, ge=0, le=999)

    def loaded(self) -> type[LoadedPixArt]:
        return LoadedPixArt

    def schedule(self, model: Model | None = None) -> tuple[float, float]:
        assert model is not None, "the noise is that of the model's scheduler"
        return ddpm_schedule(model, self.timestep)

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """T5 embeddings and their attention mask: 120 tokens for alpha, 300 for Sigma."""
        embeds, mask, _, _ = pipeline.encode_prompt(prompt=prompt, device=device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0], "mask": mask[0]}


class LoadedPixArt(LoadedDiffusion):
    """The 1024-pixel models of alpha embed the image's size, too, so that their modulation depends on it."""

    layout = Layout(
        "PixArtTransformer2DModel",
        outputs=("norm_out", "proj_out", "scale_shift_table"),
        modulation=("scale_shift_table",),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sized = bool(self.model.use_additional_conditions)

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (300, self.model.config.caption_channels), "mask": (300,)}

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
        found: Tensor = table + embedding.reshape(6, -1)
        return found

    def _size(self, n: int, latents: tuple[int, ...]) -> dict[str, Tensor | None]:
        if not self.sized:
            return {"resolution": None, "aspect_ratio": None}
        import torch

        height, width = (side * self.stride // self.patch for side in latents)
        values = {"resolution": [height, width], "aspect_ratio": [height / width]}
        return {k: torch.tensor(v, dtype=self.dtype, device=self.device).expand(n, -1) for k, v in values.items()}
