"""What families of diffusion models share: a pipeline's folder of diffusers, noise at a timestep, and an ensemble."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ditf.backbones import Backbone, LoadedBackbone, Sizes, Text
from ditf.errors import UserError
from ditf.features.descriptors import LAYER_NORM, MODULATED, Condition, Descriptor, Norm

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ditf.backbones.parts.latents import LatentEncoder, Posterior
    from ditf.backbones.parts.partial import Layout
    from ditf.models import Model

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


class Diffusion(Backbone):
    """Settings of a family of diffusion models, each of which is the folder of a diffusers pipeline.

    Attributes:
        pipelines: the classes of the pipelines that are read.
        denoiser: the component whose blocks are captured.
        ensemble_size: noise samples averaged.
        timestep: t in 0..1000 for rectified flow, in 0..999 for others.
    """

    pipelines: ClassVar[tuple[str, ...]]
    denoiser: ClassVar[str] = "transformer"
    descriptors: ClassVar[tuple[Descriptor, ...]] = MODULATED
    imports: ClassVar[tuple[str, ...]] = ("diffusers.models.autoencoders", "diffusers.models.transformers")
    options: ClassVar[frozenset[str]] = frozenset({"offload", "quantize", "gguf", "compile", "tiling"})

    ensemble_size: int = Field(default=8, ge=1, le=1024)
    timestep: int = Field(default=260, ge=0, le=1000)

    @abstractmethod
    def loaded(self) -> type[LoadedDiffusion]:
        """The class of a loaded model."""

    @abstractmethod
    def encode_prompt(self, pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """One encoded prompt, without a batch axis."""

    @classmethod
    def components(cls, folder: Path) -> tuple[str, ...]:
        """All folders that the pipeline's index names, but for those that no feature needs."""
        named = [name for name, value in pipeline_index(folder).items() if isinstance(value, list) and all(value)]
        return tuple(name for name in named if name not in UNUSED) or (cls.denoiser,)

    def schedule(self, model: Model | None = None) -> tuple[float, float]:
        """What z and the noise are multiplied by at the timestep: of rectified flow, 1 - t/1000 and t/1000."""
        return 1 - self.timestep / 1000, self.timestep / 1000

    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedDiffusion:
        from ditf.backbones.parts import memory
        from ditf.backbones.parts.latents import LatentEncoder

        kind, options = self.loaded(), model.loading
        layout = kind.layout
        encoder = LatentEncoder.load(model.component("vae"), dtype, device, options.tiling)
        if options.gguf:
            folder = model.component(self.denoiser, ())
            network, names = memory.read_gguf(layout, folder, Path(options.gguf), self.blocks, dtype)
        else:
            patterns = layout.weight_patterns(model.component(self.denoiser, ("*.index.json",)), self.blocks)
            spare = options.quantize != "none" or options.offload != "none"  # so that the GPU never holds all of it
            folder = model.component(self.denoiser, patterns)
            network, names = layout.load(folder, self.blocks, dtype, "cpu" if spare else device)
        if options.quantize != "none":
            memory.quantize(layout, network, options.quantize, dtype)
        found = kind(network, self, encoder, self.schedule(model), names, dtype)
        if options.offload == "blocks":
            memory.offload_blocks(found, device)
        else:
            found.to(device)
        if options.compile:
            memory.compile_blocks(layout, network)
        return found

    def load_denoiser(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: str,
        encoder: LatentEncoder | None = None,
        schedule: tuple[float, float] = (1.0, 0.0),
    ) -> LoadedDiffusion:
        """Load the denoiser alone from its folder; without an encoder, it takes latents but no images."""
        kind = self.loaded()
        model, names = kind.layout.load(folder, self.blocks, dtype, device)
        return kind(model, self, encoder, schedule, names)

    def sizes(self, model: Model) -> Sizes:
        from ditf.backbones.parts.cost import denoiser_sizes

        return denoiser_sizes(self, model)

    def encode_prompts(
        self, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """By the text encoders of the model's own pipeline, loaded without its other components."""
        import torch

        from ditf.backbones.parts import memory
        from ditf.backbones.parts.loading import load_pipeline

        root = model.component("", ())
        kind = pipeline_index(root).get("_class_name")
        if kind not in self.pipelines:
            known = ", ".join(self.pipelines)
            raise UserError(f"{root / 'model_index.json'}: _class_name is {kind!r}; this family reads {known}")
        kept = [name for name in self.components(root) if name.startswith(("text_encoder", "tokenizer"))]
        for name in kept:
            model.component(name)
        pipeline = load_pipeline(kind, root, kept, dtype)
        if model.loading.offload == "blocks":
            memory.offload_encoders(pipeline, device)
        else:
            pipeline.to(device)
        with torch.inference_mode():
            for prompt in prompts:
                found = self.encode_prompt(pipeline, prompt, device)
                yield {name: tensor.cpu().contiguous() for name, tensor in found.items()}


class LoadedDiffusion(LoadedBackbone):
    """A denoiser, cut off at the deepest captured block, with the autoencoder that encodes its images.

    Attributes:
        layout: where the class of the denoiser keeps its blocks.
        patch: latents that a token covers along each side.
        published_stride: pixels that a latent of the published models covers along each side.
        latent_stride: pixels that a latent covers along each side.
        tensors_read: the names of the denoiser's tensors that were read.
    """

    layout: Layout
    patch: int = 2
    published_stride: int = 8
    norm: Norm | None = LAYER_NORM

    def __init__(
        self,
        model: Any,
        settings: Any,
        encoder: LatentEncoder | None = None,
        schedule: tuple[float, float] = (1.0, 0.0),
        tensors_read: Iterable[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.settings, self._encoder, self.schedule = model, settings, encoder, schedule
        self.blocks, self.tensors_read = sorted(settings.blocks), list(tensors_read)
        weight = next(w for w in model.parameters() if w.is_floating_point())
        self.dtype, self.device = dtype or weight.dtype, weight.device
        self._resident: dict[int, Any] = {}
        self.latent_stride = encoder.stride if encoder else self.published_stride
        self.stride = self.patch * self.latent_stride
        self.channels = self.width()

    @property
    def encoder(self) -> LatentEncoder:
        """The autoencoder."""
        assert self._encoder is not None, "loaded without an autoencoder"
        return self._encoder

    def width(self) -> int:
        """Channels of the residual stream."""
        return int(self.model.inner_dim)

    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.model.config.in_channels)

    def activations(self) -> float:
        """Numbers in a layer's output, per token of `stride` pixels."""
        return self.channels

    def block(self, number: int) -> nn.Module:
        """A block of the denoiser, of which what its modulation needs is where the model runs."""
        return self._resident.get(number) or self.layout.blocks(self.model)[number]

    def to(self, device: str) -> None:
        """Move the whole denoiser."""
        import torch

        self.model.to(device)
        self.device = torch.device(device)

    def keep_resident(self, device: str) -> None:
        """Move all but the blocks, and copy there what the modulation of the captured blocks needs."""
        import copy
        from types import SimpleNamespace

        import torch

        layout = self.layout
        for name, child in self.model.named_children():
            if name not in layout.stacks:
                child.to(device)
        for own in (*self.model.parameters(recurse=False), *self.model.buffers(recurse=False)):
            own.data = own.data.to(device)
        for number in self.blocks:
            block = self.block(number)
            parts = {name: getattr(block, name) for name in layout.modulation if hasattr(block, name)}
            self._resident[number] = SimpleNamespace(**{k: copy.deepcopy(part).to(device) for k, part in parts.items()})
        self.device = torch.device(device)

    def encode(self, pixels: Tensor) -> Posterior:
        return self.encoder.encode(pixels)

    def capture(self, encoded: Posterior, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        import torch

        shape = (2, *encoded.mean.shape)  # of each sample: one for the posterior, one for z_t
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return self.features(self.encoder.noisy(encoded, noise, *self.schedule), text)

    def features(self, latents: Tensor, text: Text) -> dict[int, Tensor]:
        """Image tokens at each block, [n, tokens, C], in the model's dtype.

        Args:
            latents: noisy latents, [n, C, h, w].
            text: of all of them.

        Raises:
            UserError: the blocks are to be compiled, and cannot be here.
        """
        import torch
        from torch._dynamo.exc import BackendCompilerFailed

        from ditf.backbones.parts.partial import capture

        layout = self.layout
        try:
            with torch.inference_mode():
                arguments = self.arguments(latents.to(self.device, self.dtype), self.batch(text, len(latents)))
                found = capture(self.model, layout.blocks(self.model), self.blocks, arguments, layout.after)
        except BackendCompilerFailed as error:  # of the first pass, with which the blocks are compiled
            reason = " ".join(str(error.inner_exception).split())
            raise UserError(f"compile: torch's compiler fails here ({reason:.200}); set it to false") from None
        count = latents.shape[-2] * latents.shape[-1] // self.patch**2
        return {block: self.image_tokens(block, hidden, count) for block, hidden in found.items()}

    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of an encoded prompt, of its greatest length where that is bounded."""

    @abstractmethod
    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the denoiser is called with. text: with a batch axis, like `latents`."""

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        """The `count` image tokens of the residual stream of a block, [n, count, C]."""
        return hidden

    def modulation(self, encoded: Posterior, text: Text, condition: Condition) -> dict[int, Tensor]:
        import torch

        if self.norm is None:
            return {}
        with torch.inference_mode():
            vector = self.embedding(self.batch(text, 1), encoded.mean.shape[-2:], condition)
            return {block: self.adaln(block, vector).reshape(-1, self.channels)[:3] for block in self.blocks}

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        """What the model embeds for its AdaLN of `condition`. text: a batch of one. latents: their size (h, w)."""
        raise NotImplementedError

    def adaln(self, block: int, embedding: Any) -> Tensor:
        """Shift, scale, gate, and whatever follows, of a block's AdaLN before its attention, [..., C]."""
        raise NotImplementedError

    def batch(self, text: Text, n: int) -> dict[str, Tensor]:
        """An encoded prompt n times, where the model is; what is not a number of the model's dtype stays what it is."""
        moved = {k: x.to(self.device, self.dtype if x.is_floating_point() else None) for k, x in text.items()}
        return {name: x.expand(n, *x.shape) for name, x in moved.items()}

    def full(self, n: int, value: float) -> Tensor:
        """A number n times, in the model's dtype."""
        import torch

        return torch.full((n,), value, device=self.device, dtype=self.dtype)

    def timesteps(self, n: int) -> Tensor:
        """The timestep n times, exact in float32."""
        import torch

        return torch.full((n,), float(self.settings.timestep), device=self.device)


def ddpm_schedule(model: Model, timestep: int) -> tuple[float, float]:
    """What z and the noise are multiplied by: the square roots of alpha_t and of 1 - alpha_t, of the scheduler."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    folder = model.component("scheduler", ())
    try:
        config = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
        known = {
            k: config[k] for k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule") if k in config
        }
        alpha = float(DDPMScheduler(**known).alphas_cumprod[timestep])
    except (OSError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise UserError(f"{folder / 'scheduler_config.json'}: gives no noise at t = {timestep} ({error})") from None
    return alpha**0.5, (1 - alpha) ** 0.5


def pipeline_index(folder: Path) -> dict[str, Any]:
    """The model_index.json of a pipeline's folder; empty where there is none."""
    path = folder / "model_index.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    return found
