"""Settings that all families of diffusion models share. Importing them does not import torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones.base import Backbone
from ditf.backbones.cost import Architecture, ModelSize, parameters_in
from ditf.backbones.source import Model, is_hub, read_config, read_pipeline_index
from ditf.errors import UserError
from ditf.types import MODULATED, Descriptor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ditf.backbones.diffusion.denoiser import LoadedDiffusion

# Components of a pipeline that features do not depend on.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


class Diffusion(Backbone):
    """Settings of a family of diffusion models that diffusers saves as pipeline folders.

    Attributes:
        pipelines: Names of the pipeline classes that this family reads.
        denoiser: The component whose blocks are captured.
        config_defaults: Defaults of the denoiser's class for the values of `config.json` that costs depend on.
        ensemble_size: Number of noise samples averaged.
        timestep: Timestep t, 0 to 1000 for rectified flow and 0 to 999 for other models.
    """

    pipelines: ClassVar[tuple[str, ...]]
    denoiser: ClassVar[str] = "transformer"
    config_defaults: ClassVar[Mapping[str, Any]]
    descriptors: ClassVar[tuple[Descriptor, ...]] = MODULATED
    options: ClassVar[frozenset[str]] = frozenset({"offload", "quantize", "gguf", "compile", "tiling"})

    ensemble_size: int = Field(default=8, ge=1, le=1024)
    timestep: int = Field(default=260, ge=0, le=1000)

    @abstractmethod
    def network(self) -> type[LoadedDiffusion]:
        """Return the class that loads and runs the denoiser of this family."""

    @abstractmethod
    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        """Return the cost of each part of a denoiser with this configuration."""

    @classmethod
    def components(cls, folder: Path) -> tuple[str, ...]:
        """Return the components that the pipeline's index lists, without those in `UNUSED`."""
        index = read_pipeline_index(folder)
        listed = [name for name, value in index.items() if isinstance(value, list) and all(value)]
        return tuple(name for name in listed if name not in UNUSED) or (cls.denoiser,)

    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedDiffusion:
        return self.network().load(self, model, dtype, device)

    def encode_prompts(
        self, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        return self.network().encode_prompts(self, model, prompts, dtype, device)

    def sizes(self, model: Model) -> ModelSize:
        """Return the sizes from which costs are computed.

        For a model on the Hub that is not in `published`, the sizes of the first published model are used.
        """
        if is_hub(model.source):
            published = self.published.get(model.source) or next(iter(self.published.values()))
            architecture = self.architecture({**self.config_defaults, **published.config})
            return architecture.sizes(self.blocks, published.text * 1e9)
        path = model.component(self.denoiser, ()) / "config.json"
        text_encoders = model.component("", ()).glob("text_encoder*/*.safetensors")
        try:
            architecture = self.architecture({**self.config_defaults, **read_config(path)})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a configuration of type {model.family} ({error}).") from None
        return architecture.sizes(self.blocks, parameters_in(text_encoders))
