"""Z-Image: rectified flow in one stream of image and text; its AdaLN scales an RMS norm, and shifts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones import Block, Published
from ditf.backbones.parts.diffusion import Diffusion, LoadedDiffusion
from ditf.backbones.parts.partial import Layout
from ditf.features.descriptors import Condition, Norm
from ditf.settings import Distinct

if TYPE_CHECKING:
    from torch import Tensor


class ZImage(Diffusion):
    """Z-Image and Z-Image-Turbo. The default block is the middle one of their 30.

    timestep: t in 0..1000; 0 is the image without noise, as everywhere here, though the model counts the other way.
    """

    pipelines = ("ZImagePipeline",)
    published: ClassVar = {
        "Tongyi-MAI/Z-Image-Turbo": Published("Apache 2.0", 6.15, 30, 3840, 4.0),
        "Tongyi-MAI/Z-Image": Published("Apache 2.0", 6.15, 30, 3840, 4.0),
    }

    blocks: Distinct[Block] = Field(default=[15])

    def loaded(self) -> type[LoadedZImage]:
        return LoadedZImage

    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Qwen3's hidden states before its last layer, of the prompt in its chat template."""
        return {"prompt_embeds": pipeline.encode_prompt(prompt, device, do_classifier_free_guidance=False)[0][0]}


class LoadedZImage(LoadedDiffusion):
    """Blocks after the refiners, on the image's tokens followed by the text's."""

    layout = Layout(
        "ZImageTransformer2DModel",
        stacks=("layers",),
        outputs=("all_final_layer",),
        modulation=("adaLN_modulation", "attention_norm1"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.norm = Norm("rms", self.model.config.norm_eps)

    def width(self) -> int:
        return int(self.model.dim)

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (32, self.model.config.cap_feat_dim)}

    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"x": list(latents[:, :, None]), "t": self._time(len(latents)), "cap_feats": list(text["prompt_embeds"])}

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        return hidden[:, :count]

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        return self.model.t_embedder(self._time(1) * self.model.t_scale).to(self.dtype)

    def adaln(self, block: int, embedding: Any) -> Tensor:
        import torch

        layers: Any = self.block(block)
        scale, gate, *_ = layers.adaLN_modulation(embedding)[0].chunk(4)
        weight = layers.attention_norm1.weight  # the norm's own, which a store's norm has not
        return torch.stack([torch.zeros_like(scale), weight * (1 + scale) - 1, gate.tanh()])

    def _time(self, n: int) -> Tensor:
        return 1 - self.timesteps(n) / 1000
