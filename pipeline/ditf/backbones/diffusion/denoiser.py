"""The base class of loaded diffusion models: a denoiser, cut off at the deepest captured block, and an autoencoder.

Each family has a subclass of `LoadedDiffusion` in `ditf.backbones.networks`.
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
        layout: Attributes of the denoiser's class that hold its blocks.
        patch: Latents that a token covers along each side.
        published_stride: Pixels that a latent of the published models covers along each side.
        latent_stride: Pixels that a latent covers along each side.
        tensors_read: Names of the denoiser's tensors that were read.
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
            UserError: The folder is incomplete or wrong, or the model does not have a captured block.
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
        """Load only the denoiser. Without an autoencoder, it accepts latents but no images.

        Args:
            settings: Settings of the family, with the blocks to capture.
            folder: Folder of the denoiser.
            dtype: Type of the computation.
            device: A torch device.
        """
        network, names = cls.layout.load(folder, settings.blocks, dtype, device)
        return cls(network, settings, tensors_read=names)

    @classmethod
    def schedule(cls, settings: Diffusion, model: Model) -> tuple[float, float]:
        """Return the factors of signal and noise at the timestep: 1 - t/1000 and t/1000 for rectified flow."""
        return 1 - settings.timestep / 1000, settings.timestep / 1000

    @classmethod
    def encode_prompts(
        cls, settings: Diffusion, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """Encode prompts with the text encoders of the model's pipeline. Its other components are not loaded.

        Args:
            settings: Settings of the family.
            model: The pinned model.
            prompts: The prompts.
            dtype: Type of the computation.
            device: A torch device.

        Yields:
            The tensors of one prompt at a time, without a batch axis, on the CPU.

        Raises:
            UserError: The pipeline belongs to another family, or cannot be loaded.
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
        """Complete a pipeline of text encoders before it encodes prompts. Most pipelines are complete."""

    @staticmethod
    @abstractmethod
    def encode_prompt(pipeline: Any, prompt: str, device: str) -> dict[str, Tensor]:
        """Encode one prompt.

        Args:
            pipeline: The diffusers pipeline with its text encoders.
            prompt: The prompt.
            device: A torch device.

        Returns:
            Tensors by name, without a batch axis.
        """

    @property
    def encoder(self) -> LatentEncoder:
        """The autoencoder."""
        assert self._encoder is not None, "loaded without an autoencoder"
        return self._encoder

    def width(self) -> int:
        """Return the number of channels of the residual stream."""
        return int(self.model.inner_dim)

    def block(self, number: int) -> nn.Module:
        """Return a block of the denoiser. Its modulation layers are on the device that runs the model."""
        return self._resident.get(number) or self.layout.blocks(self.model)[number]

    def to(self, device: str) -> None:
        """Move the denoiser to a device."""
        self.model.to(device)
        self.device = torch.device(device)

    def keep_resident(self, device: str) -> None:
        """Move everything except the blocks to a device, and copy modulation layers of captured blocks there."""
        layout = self.layout
        for name, child in self.model.named_children():
            if name not in layout.stacks:
                child.to(device)
        for tensor in (*self.model.parameters(recurse=False), *self.model.buffers(recurse=False)):
            tensor.data = tensor.data.to(device)
        for number in self.blocks:
            block = self.block(number)
            layers = {name: getattr(block, name) for name in layout.modulation if hasattr(block, name)}
            copies = {name: copy.deepcopy(layer).to(device) for name, layer in layers.items()}
            self._resident[number] = SimpleNamespace(**copies)
        self.device = torch.device(device)

    def encode(self, pixels: Tensor) -> Posterior:
        return self.encoder.encode(pixels)

    def capture(self, encoded: Posterior, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        shape = (2, *encoded.mean.shape)  # noise to sample the posterior, and noise of z_t
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return self.features(self.encoder.noisy(encoded, noise, *self.noise_factors), text)

    def features(self, latents: Tensor, text: Text) -> dict[int, Tensor]:
        """Return the image tokens at each captured block, [n, tokens, C], in the model's dtype.

        Args:
            latents: Noisy latents [n, C, h, w].
            text: The encoded prompt, the same for all latents.

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
        """Select the image tokens among a block's hidden states.

        Args:
            block: Index of the block.
            hidden: Hidden states of the block.
            count: Number of image tokens.

        Returns:
            Image tokens [n, count, C].
        """
        return hidden

    def modulation(self, encoded: Posterior, text: Text, condition: Condition) -> dict[int, Tensor]:
        if self.norm is None:
            return {}
        with torch.inference_mode():
            vector = self.embedding(self.batch(text, 1), encoded.mean.shape[-2:], condition)
            return {block: self.adaln(block, vector).reshape(-1, self.channels)[:3] for block in self.blocks}

    def embedding(self, text: Mapping[str, Tensor], latents: tuple[int, ...], condition: Condition) -> Any:
        """Return the embedding that the AdaLN layers of all blocks take as input.

        Args:
            text: The encoded prompt with a batch axis of 1.
            latents: Height and width of the latents.
            condition: "t" embeds the timestep, "c" the text, and "both" both.
        """
        raise NotImplementedError

    def adaln(self, block: int, embedding: Any) -> Tensor:
        """Return the AdaLN modulation of a block, [..., C]: shift, scale and gate before its attention come first.

        Args:
            block: Index of the block.
            embedding: Result of `embedding`.
        """
        raise NotImplementedError

    def batch(self, text: Text, n: int) -> dict[str, Tensor]:
        """Repeat an encoded prompt n times on the model's device. Floating-point tensors get the model's dtype."""
        moved = {k: x.to(self.device, self.dtype if x.is_floating_point() else None) for k, x in text.items()}
        return {name: x.expand(n, *x.shape) for name, x in moved.items()}

    def full(self, n: int, value: float) -> Tensor:
        """Return a tensor that contains a value n times, in the model's dtype."""
        return torch.full((n,), value, device=self.device, dtype=self.dtype)

    def timesteps(self, n: int) -> Tensor:
        """Return the timestep n times in float32, which represents it exactly."""
        return torch.full((n,), float(self.settings.timestep), device=self.device)
