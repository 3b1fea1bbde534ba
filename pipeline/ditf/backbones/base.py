"""Backbones: each file is a family of models, from images to features at blocks and their AdaLN modulation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from ditf.errors import UserError
from ditf.settings import Distinct, Settings
from ditf.types import BOTH, ORIGINAL, Condition, Descriptor, Norm

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ditf.backbones.source import Model

Text = Mapping[str, "Tensor"]
Block = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub that a family is known to read.

    licence: as its page on the Hub names it. parameters: of what features come from, in billions. blocks: how many.
    channels: of a token; of a U-Net's, at its first block. text: parameters of its text encoders, in billions. config:
    what of its configuration differs from the defaults of its class.
    """

    licence: str
    parameters: float
    blocks: int
    channels: int
    text: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)


class Backbone(Settings):
    """A family's own settings, which stand in an entry of `features`, and how a model of it is loaded.

    Attributes:
        published: models on the Hub, by their id.
        options: of `ditf.backbones.source.Loading`, those that the family heeds.
        descriptors: that its features have.
        imports: modules that loading a model imports, and that take long.
        blocks: captured in one pass.
        ensemble_size: noise samples averaged; 1 for a family without noise.
    """

    registry: ClassVar[str] = "ditf.backbones.families"
    version: ClassVar[int] = 1  # raised by whoever changes results of this class and its subclasses

    published: ClassVar[Mapping[str, HubModel]] = {}
    options: ClassVar[frozenset[str]] = frozenset()
    descriptors: ClassVar[tuple[Descriptor, ...]] = ORIGINAL
    imports: ClassVar[tuple[str, ...]] = ("torch",)

    blocks: Distinct[Block]
    ensemble_size: int = Field(default=1, ge=1, le=1024)

    @classmethod
    def components(cls, folder: Path) -> tuple[str, ...]:
        """The folders within a model's `folder` that are read; their files are what is hashed."""
        return ("",)

    @abstractmethod
    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedBackbone:
        """Load of `model` what these settings need. Raises `UserError` for a wrong or incomplete folder."""

    def encode_prompts(
        self, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """Encode prompts one at a time: each result is a dictionary of tensors on the CPU; empty without text."""
        return ({} for _ in prompts)

    def sizes(self, model: Model) -> ModelSize:
        """What a pass costs, for `ditf plan`; of a model on the Hub, as `published` has it."""
        raise NotImplementedError

    @classmethod
    def build_tiny(cls, folder: Path, seed: int) -> None:
        """Write a tiny random model of the family into `folder`, for the source "tiny-SEED"."""
        package, _, family = cls.__module__.rpartition(".")
        if package != cls.registry:
            raise UserError(f"source: 'tiny-{seed}': {cls.__name__} has no tiny model; give a folder or a Hub id")
        from ditf.backbones.tiny import families as tiny

        getattr(tiny, family)(folder, seed)


class LoadedBackbone(ABC):
    """A loaded model.

    Attributes:
        stride: pixels that a token covers along each side. An image's sides are multiples of it.
        channels: of a token.
        norm: what the AdaLN modulates; None for a model without AdaLN.
        conditions: of the modulation: of all that the model embeds and, where it embeds timestep and text, of each.
        modulation_depends_on_size: whether the modulation depends on the image's size, besides the prompt.
    """

    stride: int
    channels: int
    norm: Norm | None = None
    conditions: tuple[Condition, ...] = (BOTH,)
    modulation_depends_on_size: bool = False

    def shape(self, block: int) -> tuple[int, int]:
        """Stride and channels of a block's tokens, where blocks differ."""
        return self.stride, self.channels

    @abstractmethod
    def encode(self, pixels: Tensor) -> Any:
        """What all noise samples of an image share. pixels: RGB in -1..1, [3, height, width], float32, CPU."""

    @abstractmethod
    def capture(self, encoded: Any, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        """Features of one image.

        Args:
            encoded: what `encode` gave.
            text: the encoded prompt.
            generators: one per noise sample, on the CPU; all randomness comes from them.

        Returns:
            For each block, [noise samples, tokens, C], the tokens in row-major order.
        """

    def modulation(self, encoded: Any, text: Text, condition: Condition) -> dict[int, Tensor]:
        """AdaLN shift, scale and gate of each block, [3, C], where `norm` is set."""
        return {}


@dataclass(frozen=True)
class ModelSize:
    """What a model's sizes say of its cost.

    stride: pixels that a token covers along each side. shapes: stride and channels of the features of each captured
    block, where a U-Net's differ. text_tokens: beside the image's.
    weights: parameters loaded. resident_weights: those outside the blocks. block_weights: of the largest block.
    exact_weights: those of the blocks that are not quantized.
    flops: multiplications and additions of a pass over n tokens of an image, as (a, b, c) of a + b n + c n^2.
    activations: numbers held per token. text_weights, autoencoder_weights: parameters of the text encoders and of the
    autoencoder. autoencoder_activations: numbers held per pixel while it encodes an image.
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
