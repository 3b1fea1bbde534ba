"""Backbones: each file is a family of models, from images to features at blocks and their AdaLN modulation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from ditf.settings import Distinct, Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ditf.models import Model

Text = Mapping[str, "Tensor"]
Block = Annotated[int, Field(ge=0)]


class Backbone(Section):
    """A family's own settings, which stand in an entry of `features`, and how a model of it is loaded.

    Attributes:
        components: the folders of a model that are read; their files are what is hashed.
        blocks: captured in one pass.
        ensemble_size: noise samples averaged; 1 for a family without noise.
    """

    components: ClassVar[tuple[str, ...]] = ("",)

    blocks: Distinct[Block]
    ensemble_size: int = Field(default=1, ge=1, le=1024)

    @abstractmethod
    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedBackbone:
        """Load of `model` what these settings need. Raises `UserError` for a wrong or incomplete folder."""

    def encode_prompts(
        self, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """Encode prompts one at a time: each result is a dictionary of tensors on the CPU; empty without text."""
        return ({} for _ in prompts)

    def sizes(self, model: Model | None) -> Sizes:
        """What a pass costs, for `ditf plan`. model: None for the family's published model, where that is known."""
        raise NotImplementedError

    @classmethod
    def build_tiny(cls, folder: Path, seed: int) -> None:
        """Write a tiny random model of the family into `folder`, for the source "tiny:SEED"."""
        from ditf.errors import UserError

        raise UserError(f"source: 'tiny:{seed}': {cls.__name__} has no tiny model; give a folder or a Hub id")


class LoadedBackbone(ABC):
    """A loaded model. stride: pixels that a token covers along each side. channels: of a token. adaln: whether there is
    modulation."""

    stride: int
    channels: int
    adaln: bool = False

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

    def modulation(self, text: Text) -> dict[int, Tensor]:
        """AdaLN shift, scale and gate of each block, [3, C], where `adaln` is true."""
        return {}


@dataclass(frozen=True)
class Sizes:
    """What a model's sizes say of its cost.

    channels: of a feature. stride: pixels that a token covers along each side. text_tokens: beside the image's.
    weights: parameters loaded. flops_per_token, flops_per_pair: multiplications and additions of a pass, per token
    and per pair of tokens. activations: numbers held per token.
    """

    channels: int
    stride: int
    text_tokens: int
    weights: float
    flops_per_token: float
    flops_per_pair: float
    activations: float
