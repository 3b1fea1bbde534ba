"""The cost of a forward pass, computed from a model's configuration by closed formulas, without torch.

Each family describes its network as an `Architecture`: the weights and FLOPs of the layers outside the blocks and of
each block. FLOPs count a multiplication and an addition as two, and only matrix products, attention and convolutions,
like `torch.utils.flop_counter`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ditf.errors import UserError

# Values held per token and noise sample, in multiples of the width: the residual stream, q, k, v, the MLP and copies.
ACTIVATIONS_PER_CHANNEL = 20
AUTOENCODER_WEIGHTS = 0.1e9
AUTOENCODER_ACTIVATIONS = 770  # values held per pixel while an image is encoded; measured for FLUX.1 on a GPU

Tokens = tuple[float, float]  # a number of tokens: (constant, multiple of the image's tokens)
ONCE: Tokens = (1, 0)  # a layer that runs once per image, such as an embedding of the timestep
IMAGE: Tokens = (0, 1)


def text(count: int) -> Tokens:
    """Return the number of tokens of a text."""
    return count, 0


def image_and_text(count: int) -> Tokens:
    """Return the number of tokens of an image and a text of `count` tokens together."""
    return count, 1


@dataclass(frozen=True)
class LayerCost:
    """Weights and FLOPs of some layers.

    Attributes:
        weights: Number of parameters.
        flops: FLOPs for an image of n tokens, as the coefficients (a, b, c) of a + b n + c n^2.
    """

    weights: float = 0.0
    flops: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __add__(self, other: LayerCost) -> LayerCost:
        a, b, c = (one + two for one, two in zip(self.flops, other.flops, strict=True))
        return LayerCost(self.weights + other.weights, (a, b, c))

    def __mul__(self, count: int) -> LayerCost:
        a, b, c = (count * value for value in self.flops)
        return LayerCost(count * self.weights, (a, b, c))


def linear(inputs: float, outputs: float, tokens: Tokens) -> LayerCost:
    """Return the cost of a linear layer or a 1x1 convolution.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        tokens: Number of tokens.
    """
    weights = inputs * outputs
    return LayerCost(weights + outputs, (2 * weights * tokens[0], 2 * weights * tokens[1], 0.0))


def mlp(inputs: float, hidden: float, outputs: float, tokens: Tokens) -> LayerCost:
    """Return the cost of two linear layers.

    Args:
        inputs: Input channels.
        hidden: Channels between the layers.
        outputs: Output channels.
        tokens: Number of tokens.
    """
    return linear(inputs, hidden, tokens) + linear(hidden, outputs, tokens)


def convolution(inputs: float, outputs: float, pixels: Tokens, kernel: int = 3) -> LayerCost:
    """Return the cost of a convolution.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        pixels: Number of pixels in the output.
        kernel: Side of the kernel in pixels.
    """
    return linear(inputs * kernel**2, outputs, pixels)


def attention(width: float, queries: Tokens, keys: Tokens) -> LayerCost:
    """Return the cost of the two matrix products of softmax attention, without the projections.

    Args:
        width: Channels of all heads.
        queries: Number of queries.
        keys: Number of keys.
    """
    (a, b), (c, d) = queries, keys
    return LayerCost(0.0, (4 * width * a * c, 4 * width * (a * d + b * c), 4 * width * b * d))


@dataclass(frozen=True)
class Architecture:
    """The cost of each part of a network.

    Attributes:
        stride: Pixels that a token covers along each side.
        channels: Channels of a token.
        outside: Layers before and between the blocks.
        blocks: The blocks, in the order in which they run.
        modulations: The AdaLN layers of each block, which are part of the block's cost.
        text_tokens: Number of text tokens.
        shapes: Stride and channels of each block's features, where blocks differ.
        captures_output: Whether a block's feature is its output rather than its input.
        activations: Values held per token and noise sample; by default a multiple of `channels`.
        has_autoencoder: Whether images pass through an autoencoder first.
    """

    stride: int
    channels: int
    outside: LayerCost
    blocks: Sequence[LayerCost]
    modulations: Sequence[LayerCost] = ()
    text_tokens: int = 0
    shapes: Sequence[tuple[int, int]] = ()
    captures_output: bool = False
    activations: float = 0.0
    has_autoencoder: bool = True

    def sizes(self, captured: Sequence[int], text_weights: float = 0.0) -> ModelSize:
        """Return the sizes of the part of the network that the captured blocks need.

        Args:
            captured: The captured blocks.
            text_weights: Parameters of the text encoders.

        Raises:
            UserError: The network does not have such a block.
        """
        deepest = max(captured)
        if deepest >= len(self.blocks):
            raise UserError(f"blocks: {deepest} is not a block of the model, which has 0..{len(self.blocks) - 1}.")
        running = sum(self.blocks[: deepest + self.captures_output], LayerCost())
        modulations = self.modulations or [LayerCost()] * len(self.blocks)
        inside = running.weights + (0 if self.captures_output else modulations[deepest].weights)
        shapes = self.shapes or [(self.stride, self.channels)] * len(self.blocks)
        return ModelSize(
            stride=self.stride,
            shapes=tuple(shapes[block] for block in captured),
            text_tokens=self.text_tokens,
            weights=self.outside.weights + inside,
            resident_weights=self.outside.weights,
            block_weights=max(block.weights for block in self.blocks),
            exact_weights=sum(modulation.weights for modulation in modulations[: deepest + 1]),
            flops=(self.outside + running).flops,
            activations=self.activations or ACTIVATIONS_PER_CHANNEL * self.channels,
            text_weights=text_weights,
            autoencoder_weights=AUTOENCODER_WEIGHTS if self.has_autoencoder else 0.0,
            autoencoder_activations=AUTOENCODER_ACTIVATIONS if self.has_autoencoder else 0.0,
        )


@dataclass(frozen=True)
class ModelSize:
    """Sizes of the part of a model that the captured blocks need, from which costs are computed.

    Attributes:
        stride: Pixels that a token covers along each side.
        shapes: Stride and channels of the features of each captured block.
        text_tokens: Number of text tokens.
        weights: Parameters that are loaded.
        resident_weights: Parameters outside the blocks.
        block_weights: Parameters of the largest block.
        exact_weights: Parameters of the blocks that are not quantized.
        flops: FLOPs of a pass over an image of n tokens, as the coefficients (a, b, c) of a + b n + c n^2.
        activations: Values held per token and noise sample.
        text_weights: Parameters of the text encoders.
        autoencoder_weights: Parameters of the autoencoder.
        autoencoder_activations: Values held per pixel while the autoencoder encodes an image.
    """

    stride: int
    shapes: tuple[tuple[int, int], ...]
    text_tokens: int
    weights: float
    resident_weights: float
    block_weights: float
    flops: tuple[float, float, float]
    activations: float
    exact_weights: float = 0.0
    text_weights: float = 0.0
    autoencoder_weights: float = 0.0
    autoencoder_activations: float = 0.0

    def flops_of(self, tokens: int) -> float:
        """Return the FLOPs of a pass over an image of `tokens` tokens."""
        a, b, c = self.flops
        return a + b * tokens + c * tokens**2


def parameters_in(files: Iterable[Path]) -> float:
    """Return the number of parameters in safetensors files. Raises `UserError` if one cannot be read."""
    total = 0
    for path in files:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
            raise UserError(f"{path}: not a safetensors file ({error}). Download it again.") from None
    return float(total)
