"""The denoiser of a diffusion model, cut off after the deepest captured block, with its autoencoder.

One class per family derives from `LoadedDiffusion`; see `ditf.backbones.networks`.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from ditf.backbones.base import LoadedBackbone, Text
from ditf.backbones.diffusion import memory
from ditf.backbones.diffusion.latents import LatentEncoder, Posterior
from ditf.backbones.diffusion.settings import Diffusion
from ditf.backbones.loading import load_pipeline
from ditf.backbones.partial import DenoiserLayout, capture
from ditf.backbones.source import Model, read_pipeline_index
from ditf.errors import UserError
from ditf.types import LAYER_NORM, Condition, Norm


class LoadedDiffusion(LoadedBackbone):
    """A denoiser, cut off at the deepest captured block, with the autoencoder that encodes its images.

    Attributes:
        layout: where the class of the denoiser keeps its blocks.
        patch: latents that a token covers along each side.
        published_stride: pixels that a latent of the published models covers along each side.
        latent_stride: pixels that a latent covers along each side.
        tensors_read: the names of the denoiser's tensors that were read.
    """

    layout: DenoiserLayout
    patch: int = 2
    published_stride: int = 8
    norm: Norm | None = LAYER_NORM

    def __init__(
        self,
        model: Any,
        settings: Any,
        encoder: LatentEncoder | None = None,
        noise_factors: tuple[float, float] = (1.0, 0.0),
        tensors_read: Iterable[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.settings, self._encoder, self.noise_factors = model, settings, encoder, noise_factors
        self.blocks, self.tensors_read = sorted(settings.blocks), list(tensors_read)
        weight = next(w for w in model.parameters() if w.is_floating_point())
        self.dtype, self.device = dtype or weight.dtype, weight.device
        self._resident: dict[int, Any] = {}
        self.latent_stride = encoder.stride if encoder else self.published_stride
        self.stride = self.patch * self.latent_stride
        self.channels = self.width()

    @classmethod
    def load(cls, settings: Diffusion, model: Model, dtype: torch.dtype, device: str) -> Self:
        """Load the part of a model that the captured blocks need.

        Args:
            settings: Settings of the family, with the blocks to capture.
            model: The pinned model and how it is loaded.
            dtype: Type of the computation.
            device: A torch device.

        Raises:
            UserError: The folder is incomplete or wrong, or the model does not have such a block.
        """
        layout, options = cls.layout, model.loading
        encoder = LatentEncoder.load(model.component("vae"), dtype, device, options.tiling)
        if options.gguf:
            folder = model.component(settings.denoiser, ())
            network, names = memory.read_gguf(layout, folder, Path(options.gguf), settings.blocks, dtype)
        else:
            patterns = layout.weight_patterns(model.component(settings.denoiser, ("*.index.json",)), settings.blocks)
            folder = model.component(settings.denoiser, patterns)
            # Quantized or offloaded blocks are prepared on the CPU, so that the GPU never holds all exact weights.
            on_cpu = options.quantize != "none" or options.offload != "none"
            network, names = layout.load(folder, settings.blocks, dtype, "cpu" if on_cpu else device)
        if options.quantize != "none":
            memory.quantize(layout, network, options.quantize, dtype)
        loaded = cls(network, settings, encoder, cls.schedule(settings, model), names, dtype)
        if options.offload == "blocks":
            memory.offload_blocks(loaded, device)
        else:
            loaded.to(device)
        if options.compile:
            memory.compile_blocks(layout, network)
        return loaded

    @classmethod
    def load_denoiser(cls, settings: Diffusion, folder: Path, dtype: torch.dtype, device: str) -> Self:
        """Load the denoiser from its own folder; without an autoencoder, it accepts latents but no images."""
        network, names = cls.layout.load(folder, settings.blocks, dtype, device)
        return cls(network, settings, tensors_read=names)

    @classmethod
    def schedule(cls, settings: Diffusion, model: Model) -> tuple[float, float]:
        """Return the factors of signal and noise at the timestep: for rectified flow, 1 - t/1000 and t/1000."""
        return 1 - settings.timestep / 1000, settings.timestep / 1000

    @classmethod
    def encode_prompts(
        cls, settings: Diffusion, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """Encode prompts by the text encoders of the model's own pipeline, loaded without its other components.

        Yields:
            The tensors of one prompt at a time, without a batch axis, on the CPU.

        Raises:
            UserError: The pipeline is of a class that this family does not read.
        """
        root = model.component("", ())
        kind = read_pipeline_index(root).get("_class_name")
        if kind not in settings.pipelines:
            known = ", ".join(settings.pipelines)
            raise UserError(f"{root / 'model_index.json'}: _class_name is {kind!r}; this family reads {known}")
        kept = [name for name in settings.components(root) if name.startswith(("text_encoder", "tokenizer"))]
        for name in kept:
            model.component(name)
        pipeline = load_pipeline(kind, root, kept, dtype)
        cls.prepare_pipeline(pipeline, model)
        if model.loading.offload == "blocks":
            memory.offload_encoders(pipeline, device)
        else:
            pipeline.to(device)
        with torch.inference_mode():
            for prompt in prompts:
                tensors = cls.encode_prompt(pipeline, prompt, device)
                yield {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def prepare_pipeline(cls, pipeline: Any, model: Model) -> None:
        """Give a pipeline of text encoders whatever else encoding needs."""

    @staticmethod
    @abstractmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Encode one prompt by a diffusers pipeline; return its tensors without a batch axis."""

    @property
    def encoder(self) -> LatentEncoder:
        """The autoencoder."""
        assert self._encoder is not None, "loaded without an autoencoder"
        return self._encoder

    def width(self) -> int:
        """Return the channels of the residual stream."""
        return int(self.model.inner_dim)

    def block(self, number: int) -> nn.Module:
        """Return a block of the denoiser whose modulation layers are where the model runs."""
        return self._resident.get(number) or self.layout.blocks(self.model)[number]

    def to(self, device: str) -> None:
        """Move the denoiser to a device."""
        self.model.to(device)
        self.device = torch.device(device)

    def keep_resident(self, device: str) -> None:
        """Move everything but the blocks to a device, and copy the modulation layers of the captured blocks there."""
        layout = self.layout
        for name, child in self.model.named_children():
            if name not in layout.stacks:
                child.to(device)
        for tensor in (*self.model.parameters(recurse=False), *self.model.buffers(recurse=False)):
            tensor.data = tensor.data.to(device)
        for number in self.blocks:
            block = self.block(number)
            parts = {name: getattr(block, name) for name in layout.modulation if hasattr(block, name)}
            self._resident[number] = SimpleNamespace(**{k: copy.deepcopy(part).to(device) for k, part in parts.items()})
        self.device = torch.device(device)

    def encode(self, pixels: Tensor) -> Posterior:
        return self.encoder.encode(pixels)

    def capture(self, encoded: Posterior, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        shape = (2, *encoded.mean.shape)  # noise for sampling the posterior, and noise for z_t
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return self.features(self.encoder.noisy(encoded, noise, *self.noise_factors), text)

    def features(self, latents: Tensor, text: Text) -> dict[int, Tensor]:
        """Return the image tokens at each captured block, [n, tokens, C], in the model's dtype.

        Args:
            latents: Noisy latents [n, C, h, w].
            text: The encoded prompt of all of them.

        Raises:
            UserError: The blocks cannot be compiled on this machine.
        """
        layout = self.layout
        try:
            with torch.inference_mode():
                arguments = self.arguments(latents.to(self.device, self.dtype), self.batch(text, len(latents)))
                states = capture(self.model, layout.blocks(self.model), self.blocks, arguments, layout.capture_output)
        except BackendCompilerFailed as error:  # the first pass compiles the blocks
            reason = " ".join(str(error.inner_exception).split())
            raise UserError(f"compile: torch's compiler fails here ({reason:.200}). Set it to false.") from None
        count = latents.shape[-2] * latents.shape[-1] // self.patch**2
        return {block: self.image_tokens(block, hidden, count) for block, hidden in states.items()}

    @abstractmethod
    def arguments(self, latents: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the arguments of the denoiser's forward pass.

        Args:
            latents: Noisy latents [n, C, h, w].
            text: The encoded prompt with a batch axis of n.
        """

    def image_tokens(self, block: int, hidden: Tensor, count: int) -> Tensor:
        """Return the `count` image tokens of a block's hidden states, [n, count, C]."""
        return hidden

    def modulation(self, encoded: Posterior, text: Text, condition: Condition) -> dict[int, Tensor]:
        if self.norm is None:
            return {}
        with torch.inference_mode():
            vector = self.embedding(self.batch(text, 1), encoded.mean.shape[-2:], condition)
            return {block: self.adaln(block, vector).reshape(-1, self.channels)[:3] for block in self.blocks}

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        """Return the vector that the AdaLN layers of all blocks take.

        Args:
            text: The encoded prompt with a batch axis of 1.
            latents: Height and width of the latents.
            condition: Whether timestep, text or both are embedded.
        """
        raise NotImplementedError

    def adaln(self, block: int, embedding: Any) -> Tensor:
        """Return shift, scale and gate of a block's AdaLN before its attention, and whatever follows, [..., C]."""
        raise NotImplementedError

    def batch(self, text: Text, n: int) -> dict[str, Tensor]:
        """Repeat an encoded prompt n times on the model's device; floating-point tensors get the model's dtype."""
        moved = {k: x.to(self.device, self.dtype if x.is_floating_point() else None) for k, x in text.items()}
        return {name: x.expand(n, *x.shape) for name, x in moved.items()}

    def full(self, n: int, value: float) -> Tensor:
        """Return a value n times, in the model's dtype."""
        return torch.full((n,), value, device=self.device, dtype=self.dtype)

    def timesteps(self, n: int) -> Tensor:
        """Return the timestep n times, in float32, where it is exact."""
        return torch.full((n,), float(self.settings.timestep), device=self.device)
