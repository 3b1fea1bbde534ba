"""Vision transformers of the transformers library: DINOv2, DINOv3, SigLIP, CLIP and others with patch tokens.

The feature of a block is its output for the patches, before the model's last normalization. There is no noise, no
prompt and no AdaLN, so that `original` is the only descriptor. Papers: Oquab et al., "DINOv2" (arXiv 2304.07193);
Siméoni et al., "DINOv3" (arXiv 2508.10104); Tschannen et al., "SigLIP 2" (arXiv 2502.14786); Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Backbone, Block, HubModel, LoadedBackbone
from ditf.backbones.cost import IMAGE, Architecture, LayerCost, ModelSize, attention, image_and_text, linear, mlp
from ditf.backbones.source import is_hub, read_config
from ditf.errors import UserError
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

    Attributes:
        blocks: Blocks whose outputs are captured, 0 to 11 in a base model.
        final_norm: Apply the model's last normalization to the features. Papers on correspondence do without it.
    """

    published: ClassVar = {
        "facebook/dinov2-base": HubModel("Apache 2.0", 0.0866, 12, 768, config=BASE | DINOV2),
        "facebook/dinov2-large": HubModel("Apache 2.0", 0.304, 24, 1024, config=LARGE | DINOV2),
        "facebook/dinov2-with-registers-base": HubModel("Apache 2.0", 0.0866, 12, 768, config=REGISTERS),
        "facebook/dinov3-vitb16-pretrain-lvd1689m": HubModel("DINOv3 License", 0.0857, 12, 768, config=DINOV3),
        "google/siglip2-base-patch16-512": HubModel("Apache 2.0", 0.0935, 12, 768, config=SIGLIP),
        "openai/clip-vit-large-patch14": HubModel("MIT", 0.303, 24, 1024, config=CLIP),
    }

    blocks: Distinct[Block] = Field(default=[11])
    final_norm: bool = False

    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedBackbone:
        from ditf.backbones.networks.vit import LoadedViT  # imports torch, which settings do without

        return LoadedViT.load(model.component(""), self.blocks, self.final_norm, dtype, device)

    def sizes(self, model: Model) -> ModelSize:
        if is_hub(model.source):
            published = self.published.get(model.source) or next(iter(self.published.values()))
            return self.architecture(published.config).sizes(self.blocks)
        path = model.component("", ()) / "config.json"
        config = read_config(path)
        config = config.get("vision_config", config)  # of a model of images and texts
        try:
            return self.architecture(config).sizes(self.blocks)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not the configuration of a vision transformer with patches ({error}).") from None

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        """Return the cost of each part of a vision transformer with this configuration."""
        width, patch = config["hidden_size"], config["patch_size"]
        hidden = config.get("intermediate_size") or config.get("mlp_ratio", 4) * width
        kind = str(config.get("model_type"))
        registers = config.get("num_register_tokens", 4 if kind == "dinov2_with_registers" else 0)
        # SigLIP has no class token. It has a pooling head, which is loaded but never runs.
        is_siglip = kind.startswith("siglip")
        tokens = IMAGE if is_siglip else image_and_text(1 + registers)
        block = linear(width, width, tokens) * 4 + attention(width, tokens, tokens) + mlp(width, hidden, width, tokens)
        positions = (config.get("image_size", patch) // patch) ** 2
        outside = linear(3 * patch**2, width, IMAGE) + LayerCost(width * (positions + tokens[0]))
        if is_siglip:
            outside += LayerCost(block.weights)
        return Architecture(
            stride=patch,
            channels=width,
            outside=outside,
            blocks=[block] * config["num_hidden_layers"],
            captures_output=True,
            has_autoencoder=False,
        )
