"""Settings that all families of diffusion models share; importing them does not import torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditf.backbones.base import Backbone, ModelSize
from ditf.backbones.source import Model, read_pipeline_index
from ditf.types import MODULATED, Descriptor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ditf.backbones.diffusion.denoiser import LoadedDiffusion

# Components of a pipeline that no feature needs.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


class Diffusion(Backbone):
    """Settings of a family of diffusion models that diffusers saves as pipeline folders.

    Attributes:
        pipelines: Names of the pipeline classes that this family reads.
        denoiser: The component whose blocks are captured.
        ensemble_size: Number of noise samples averaged.
        timestep: Timestep t, 0 to 1000 for rectified flow and 0 to 999 for other models.
    """

    pipelines: ClassVar[tuple[str, ...]]
    denoiser: ClassVar[str] = "transformer"
    descriptors: ClassVar[tuple[Descriptor, ...]] = MODULATED
    imports: ClassVar[tuple[str, ...]] = ("diffusers.models.autoencoders", "diffusers.models.transformers")
    options: ClassVar[frozenset[str]] = frozenset({"offload", "quantize", "gguf", "compile", "tiling"})

    ensemble_size: int = Field(default=8, ge=1, le=1024)
    timestep: int = Field(default=260, ge=0, le=1000)

    @abstractmethod
    def network(self) -> type[LoadedDiffusion]:
        """Return the class that loads and runs the denoiser of this family."""

    @classmethod
    def components(cls, folder: Path) -> tuple[str, ...]:
        """Return the components that the pipeline's index lists, except those that no feature needs."""
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
        from ditf.backbones.cost import denoiser_sizes

        return denoiser_sizes(self, model)
