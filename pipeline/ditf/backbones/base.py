"""The interface of a backbone: a model that turns an image and a prompt into features at chosen blocks.

A family of models is one module in `ditf.backbones.families` with a subclass of `Backbone`: its settings, without
torch. The settings load a `LoadedBackbone`, which runs the model; those classes are in `ditf.backbones.networks`.
"""

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

    from ditf.backbones.cost import ModelSize
    from ditf.backbones.source import Model

Text = Mapping[str, "Tensor"]
Block = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class HubModel:
    """A published model of a family.

    Attributes:
        licence: Licence, as the model's page on the Hub names it.
        parameters: Parameters of the network that computes the features, in billions.
        blocks: Number of blocks.
        channels: Channels of a token. For a U-Net, channels of a token of the first up block.
        text: Parameters of the text encoders, in billions.
        config: Values of the network's configuration that differ from the defaults of its class.
    """

    licence: str
    parameters: float
    blocks: int
    channels: int
    text: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)


class Backbone(Settings):
    """Settings of a family of models. An entry of `features` in `params.yaml` contains them.

    Attributes:
        version: Version of the results. Raise it in a change that alters results of this class and its subclasses.
        published: Published models by their Hub id.
        options: Loading options of `ditf.backbones.source.LoadingSettings` that the family supports.
        descriptors: Descriptors that the features of the family have.
        blocks: Blocks whose features are captured in one pass, counted from 0.
        ensemble_size: Number of noise samples averaged; 1 for a family without noise.
    """

    registry: ClassVar[str] = "ditf.backbones.families"
    version: ClassVar[int] = 1

    published: ClassVar[Mapping[str, HubModel]] = {}
    options: ClassVar[frozenset[str]] = frozenset()
    descriptors: ClassVar[tuple[Descriptor, ...]] = ORIGINAL

    blocks: Distinct[Block]
    ensemble_size: int = Field(default=1, ge=1, le=1024)

    @classmethod
    def components(cls, folder: Path) -> tuple[str, ...]:
        """Return the subfolders of a model's folder that are read. Their files identify the model.

        Args:
            folder: Folder of the model.
        """
        return ("",)

    @abstractmethod
    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedBackbone:
        """Load the part of a model that the captured blocks need.

        Args:
            model: The pinned model.
            dtype: Type of the computation.
            device: A torch device.

        Raises:
            UserError: The model's folder is wrong or incomplete.
        """

    def encode_prompts(
        self, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """Encode prompts one at a time.

        Args:
            model: The pinned model.
            prompts: The prompts.
            dtype: Type of the computation.
            device: A torch device.

        Yields:
            The tensors of one prompt by name, on the CPU; an empty dictionary for a model without text.
        """
        return ({} for _ in prompts)

    def sizes(self, model: Model) -> ModelSize | None:
        """Return the sizes from which `ditf plan` computes costs, or None if they are not known."""
        return None

    @classmethod
    def build_tiny(cls, folder: Path, seed: int) -> None:
        """Write a tiny random model of the family, for the source "tiny-SEED".

        Args:
            folder: Folder to write into.
            seed: Seed of the random weights.

        Raises:
            UserError: The family has no tiny model.
        """
        package, _, family = cls.__module__.rpartition(".")
        if package != cls.registry:
            raise UserError(f"source: 'tiny-{seed}': {cls.__name__} has no tiny model. Give a folder or a Hub id.")
        from ditf.backbones import tiny  # imports torch, diffusers and transformers, which settings do without

        getattr(tiny, family)(folder, seed)


class LoadedBackbone(ABC):
    """A loaded model.

    Attributes:
        stride: Pixels that a token covers along each side. The sides of an image are multiples of it.
        channels: Channels of a token.
        norm: The normalization that the AdaLN modulates; None for a model without AdaLN.
        conditions: Conditions for which the modulation can be computed. "both" uses all embeddings. Models that embed
            timestep and text separately add "t" for the timestep alone and "c" for the text alone.
        modulation_depends_on_size: Whether the modulation depends on the size of the image as well as on the prompt.
    """

    stride: int
    channels: int
    norm: Norm | None = None
    conditions: tuple[Condition, ...] = (BOTH,)
    modulation_depends_on_size: bool = False

    def shape(self, block: int) -> tuple[int, int]:
        """Return the stride and the channels of a block's tokens."""
        return self.stride, self.channels

    @abstractmethod
    def encode(self, pixels: Tensor) -> Any:
        """Encode an image once for all its noise samples, for example into latents.

        Args:
            pixels: RGB in -1..1, float32 [3, height, width], on the CPU.
        """

    @abstractmethod
    def capture(self, encoded: Any, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        """Compute the features of one image.

        Args:
            encoded: Result of `encode`.
            text: The encoded prompt.
            generators: One random generator per noise sample, on the CPU. All randomness comes from them.

        Returns:
            For each block, tokens [noise samples, tokens, C] in row-major order.
        """

    def modulation(self, encoded: Any, text: Text, condition: Condition) -> dict[int, Tensor]:
        """Compute the AdaLN modulation.

        Args:
            encoded: Result of `encode`.
            text: The encoded prompt.
            condition: The embeddings that are used.

        Returns:
            Shift, scale and gate of each block, [3, C]. For a model without AdaLN, the dictionary is empty.
        """
        return {}
