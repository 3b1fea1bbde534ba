"""Vision transformers of the transformers library: DINOv2, DINOv3, SigLIP, CLIP and others with patch tokens.

No noise, no prompt, no AdaLN: `original` is the only descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Backbone, Block, HubModel, LoadedBackbone, ModelSize
from ditf.settings import Distinct

if TYPE_CHECKING:
    import torch

    from ditf.backbones.source import Model

BASE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14}
DINOV2 = {"model_type": "dinov2", "image_size": 518}
REGISTERS = BASE | {"model_type": "dinov2_with_registers", "image_size": 518}
DINOV3 = BASE | {"model_type": "dinov3_vit", "patch_size": 16, "intermediate_size": 3072}
SIGLIP = BASE | {"model_type": "siglip_vision_model", "patch_size": 16, "image_size": 512}
LARGE: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
CLIP = LARGE | {"model_type": "clip_vision_model", "intermediate_size": 4096}


class ViT(Backbone):
    """A vision transformer. The default is the last block of a base model.

    blocks: whose outputs are the features, counted from 0: 0..11 in a base model. final_norm: apply the model's last
    normalization to them, as its own output has it; correspondence papers take them before it.
    """

    published: ClassVar = {
        "facebook/dinov2-base": HubModel("Apache 2.0", 0.0866, 12, 768, config=BASE | DINOV2),
        "facebook/dinov2-large": HubModel("Apache 2.0", 0.304, 24, 1024, config=LARGE | DINOV2),
        "facebook/dinov2-with-registers-base": HubModel("Apache 2.0", 0.0866, 12, 768, config=REGISTERS),
        "facebook/dinov3-vitb16-pretrain-lvd1689m": HubModel("DINOv3 License", 0.0857, 12, 768, config=DINOV3),
        "google/siglip2-base-patch16-512": HubModel("Apache 2.0", 0.0935, 12, 768, config=SIGLIP),
        "openai/clip-vit-large-patch14": HubModel("MIT", 0.303, 24, 1024, config=CLIP),
    }

    imports: ClassVar = ("ditf.backbones.networks.vit",)

    blocks: Distinct[Block] = Field(default=[11])
    final_norm: bool = False

    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedBackbone:
        from ditf.backbones.networks.vit import LoadedViT

        return LoadedViT.load(model.component(""), self.blocks, self.final_norm, dtype, device)

    def sizes(self, model: Model) -> ModelSize:
        from ditf.backbones.networks.vit import sizes

        return sizes(self, model)
