"""FLUX.1: image, text and timestep in; features and AdaLN modulation at chosen blocks out.

Method: Gan et al., arXiv 2505.18584. Only what the deepest captured block needs is loaded: the blocks before it, and
of itself its modulation layer. torch and diffusers are imported where they are used, so that settings validate fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, FiniteFloat

from ditf.backbones import Backbone, Block, LoadedBackbone, Sizes, Text
from ditf.errors import UserError
from ditf.settings import Distinct

if TYPE_CHECKING:
    import torch
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from torch import Tensor, nn

    from ditf.backbones.parts.vae import LatentEncoder, Posterior
    from ditf.models import Model

TRANSFORMER = "FluxTransformer2DModel"
TEXT_TOKENS = 512
# Of FLUX.1-dev, for a plan made before its weights are there.
FLUX1_DEV = {"num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24}
ACTIVATIONS = 20  # of the width, per token and noise sample: the residual stream, q, k, v, the MLP, and their copies


class Flux(Backbone):
    """FLUX.1-dev and finetunes of it. The defaults are the paper's settings for SPair-71k.

    timestep: t in 0..1000. guidance: the distilled guidance scale. blocks: counted through both kinds; in
    FLUX.1-dev 0..18 are double, 19..56 single.
    """

    components: ClassVar[tuple[str, ...]] = (
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
    )

    blocks: Distinct[Block] = Field(default=[28])
    ensemble_size: int = Field(default=8, ge=1, le=1024)
    timestep: int = Field(default=260, ge=0, le=1000)
    guidance: FiniteFloat = Field(default=3.5, ge=0)

    def load(self, model: Model, dtype: torch.dtype, device: str) -> LoadedFlux:
        from ditf.backbones.parts.vae import LatentEncoder

        needed = weight_patterns(model.component("transformer", ("*.index.json",)), self.blocks)
        transformer = FluxTransformer.load(model.component("transformer", needed), self.blocks, dtype, device)
        return LoadedFlux(transformer, LatentEncoder.load(model.component("vae"), dtype, device), self)

    def encode_prompts(
        self, model: Model, prompts: Iterable[str], dtype: torch.dtype, device: str
    ) -> Iterator[dict[str, Tensor]]:
        """T5 embeddings, 512 tokens padded and without attention mask, and the pooled CLIP vector, per prompt."""
        import torch

        from ditf.backbones.parts.loading import load_pipeline

        kept = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        for name in kept:
            model.component(name)
        pipeline = load_pipeline("FluxPipeline", model.component("", ()), kept, dtype).to(device)
        length = min(TEXT_TOKENS, pipeline.tokenizer_2.model_max_length)
        with torch.inference_mode():
            for prompt in prompts:
                embeds, pooled, _ = pipeline.encode_prompt(
                    prompt=prompt, prompt_2=None, device=device, max_sequence_length=length
                )
                yield {"prompt_embeds": embeds[0].cpu().contiguous(), "pooled": pooled[0].cpu().contiguous()}

    def sizes(self, model: Model | None) -> Sizes:
        config = FLUX1_DEV if model is None else transformer_config(model.component("transformer", ()))
        width, deepest = config["attention_head_dim"] * config["num_attention_heads"], max(self.blocks)
        double = min(deepest, config["num_layers"])
        return Sizes(
            channels=width,
            stride=16,
            text_tokens=TEXT_TOKENS,
            weights=(36 * double + 15 * (deepest - double)) * width**2,
            flops_per_token=deepest * 24 * width**2,  # q, k, v, output and an MLP of 4 widths, in either kind of block
            flops_per_pair=deepest * 4 * width,
            activations=ACTIVATIONS * width,
        )

    @classmethod
    def build_tiny(cls, folder: Path, seed: int) -> None:
        from ditf.backbones.parts import tiny_flux

        tiny_flux.build(folder, seed)


class LoadedFlux(LoadedBackbone):
    """A FLUX with the VAE that encodes its images."""

    stride = 16
    adaln = True

    def __init__(self, transformer: FluxTransformer, encoder: LatentEncoder, settings: Flux) -> None:
        self.transformer, self.encoder, self._settings = transformer, encoder, settings
        self.channels = transformer.model.inner_dim

    def encode(self, pixels: Tensor) -> Posterior:
        return self.encoder.encode(pixels)

    def capture(self, encoded: Posterior, text: Text, generators: list[torch.Generator]) -> dict[int, Tensor]:
        import torch

        shape = (2, *encoded.mean.shape)  # of each sample: one for the posterior, one for z_t
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        latents = self.encoder.noisy(encoded, noise, self._settings.timestep)
        return self.transformer.capture(latents, text, self._settings.timestep, self._settings.guidance)

    def modulation(self, text: Text) -> dict[int, Tensor]:
        return self.transformer.modulation(text, self._settings.timestep, self._settings.guidance)


class FluxTransformer:
    """The part of FLUX's transformer that the captured blocks need.

    Args:
        model: the transformer, cut off before the deepest of `blocks`, without output layers; see `skeleton`.
        last_norm: that block's modulation layer.
        blocks: to capture.

    Attributes:
        tensors_read: the names of the tensors that `load` read.
    """

    def __init__(self, model: FluxTransformer2DModel, last_norm: nn.Module, blocks: Iterable[int]) -> None:
        self.model, self.blocks = model.requires_grad_(False).eval(), sorted(blocks)
        self.dtype, self.device = model.x_embedder.weight.dtype, model.x_embedder.weight.device
        self.tensors_read: list[str] = []
        stack = [*model.transformer_blocks, *model.single_transformer_blocks]
        self._norms = [getattr(b, "norm1", None) or b.norm for b in stack] + [last_norm]
        self._entering: dict[int, Tensor] = {}
        for block in self.blocks[:-1]:
            stack[block].register_forward_pre_hook(self._remember(block), with_kwargs=True)

    @classmethod
    def load(cls, folder: Path, blocks: Iterable[int], dtype: torch.dtype, device: str) -> FluxTransformer:
        """Read from the `transformer/` of a diffusers folder, in safetensors, what `blocks` need.

        Raises:
            UserError: a file is missing, has other tensors than FLUX, or `blocks` has one that the model has not.
        """
        from ditf.backbones.parts.loading import read_tensors

        config, deepest = transformer_config(folder), max(blocks)
        count = config["num_layers"] + config["num_single_layers"]
        if deepest >= count:
            raise UserError(f"blocks: {deepest} is not a block of {folder}, which has 0..{count - 1}")
        state = read_tensors(folder, lambda names: needed_tensors(names, config, deepest), dtype, device)
        names = list(state)
        model, norm, prefix = skeleton(config, deepest)
        last = {name.removeprefix(prefix): state.pop(name) for name in names if name.startswith(prefix)}
        try:
            norm.load_state_dict(last, assign=True)
            model.load_state_dict(state, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{folder}: tensors disagree with config.json: {reason}") from None
        loaded = cls(model, norm.requires_grad_(False).eval(), blocks)
        loaded.tensors_read = names
        return loaded

    def capture(self, latents: Tensor, text: Text, timestep: float, guidance: float) -> dict[int, Tensor]:
        """Image tokens of the residual stream entering each block.

        Args:
            latents: noisy latents, [n, 16, h, w], h and w even.
            text: of all of them: prompt_embeds [text tokens, 4096], pooled [768] (sizes of FLUX.1-dev).
            timestep: t, in 0..1000. guidance: the distilled guidance scale.

        Returns:
            For each block [n, h/2 * w/2, C], in the model's dtype.
        """
        import torch

        n, _, h, w = latents.shape
        words, pooled = (text[name].to(self.device, self.dtype) for name in ("prompt_embeds", "pooled"))
        with torch.inference_mode():
            last = self.model(
                hidden_states=pack(latents).to(self.device, self.dtype),
                encoder_hidden_states=words.expand(n, *words.shape),
                pooled_projections=pooled.expand(n, *pooled.shape),
                timestep=self._full(n, timestep / 1000),
                guidance=self._guidance(n, guidance),
                img_ids=image_ids(h // 2, w // 2).to(self.device, self.dtype),
                txt_ids=torch.zeros(len(words), 3, device=self.device, dtype=self.dtype),
                return_dict=False,
            )[0]
        captured = {**self._entering, self.blocks[-1]: last}
        self._entering.clear()
        return captured

    def modulation(self, text: Text, timestep: float, guidance: float) -> dict[int, Tensor]:
        """AdaLN shift, scale and gate of each block, [3, C]; the same for every noise sample and token."""
        import torch

        with torch.inference_mode():
            time, scale = self._full(1, timestep / 1000) * 1000, self._guidance(1, guidance)
            pooled = text["pooled"].to(self.device, self.dtype)[None]
            embed = self.model.time_text_embed
            vector = embed(time, pooled) if scale is None else embed(time, scale * 1000, pooled)
            norms = {block: self._norms[block] for block in self.blocks}
            return {b: n.linear(n.silu(vector))[0].reshape(-1, self.model.inner_dim)[:3] for b, n in norms.items()}

    def _full(self, n: int, value: float) -> Tensor:
        import torch

        return torch.full((n,), value, device=self.device, dtype=self.dtype)

    def _guidance(self, n: int, guidance: float) -> Tensor | None:
        return self._full(n, guidance) if self.model.config.guidance_embeds else None

    def _remember(self, block: int) -> Any:
        def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            self._entering[block] = kwargs["hidden_states"]

        return hook


def pack(latents: Tensor) -> Tensor:
    """Pack latents 2x2: [n, 16, h, w] to [n, h/2 * w/2, 64]."""
    n, channels, h, w = latents.shape
    squares = latents.reshape(n, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, (h // 2) * (w // 2), channels * 4)


def image_ids(h: int, w: int) -> Tensor:
    """Position ids (0, row, column) of the image tokens, [h * w, 3]."""
    import torch

    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


def needed_tensors(names: Iterable[str], config: dict[str, Any], deepest: int) -> list[str]:
    """Of a FLUX transformer's tensors, those that features entering block `deepest` need."""
    double = config["num_layers"]
    kept = []
    for name in names:
        head, _, rest = name.partition(".")
        if head in ("norm_out", "proj_out"):
            continue
        if head in ("transformer_blocks", "single_transformer_blocks"):
            number, _, rest = rest.partition(".")
            block = int(number) + (double if head == "single_transformer_blocks" else 0)
            norm = "norm1.linear." if block < double else "norm.linear."
            if block > deepest or (block == deepest and not rest.startswith(norm)):
                continue
        kept.append(name)
    return kept


def transformer_config(folder: Path) -> dict[str, Any]:
    """The config.json of a transformer's folder, checked to be FLUX."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; is the source a diffusers folder of FLUX?") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if config.get("_class_name") != TRANSFORMER:
        raise UserError(f"{path}: _class_name is {config.get('_class_name')!r}, not {TRANSFORMER}")
    return config


def weight_patterns(folder: Path, blocks: Iterable[int]) -> list[str]:
    """The names of a transformer's weight files that features entering `blocks` need.

    `folder` holds the config and, if the weights are in several files, their index.
    """
    from ditf.backbones.parts.loading import WEIGHTS, weight_index

    index = weight_index(folder)
    if index is None:
        return [WEIGHTS]
    return sorted({index[name] for name in needed_tensors(index, transformer_config(folder), max(blocks))})


def skeleton(config: dict[str, Any], deepest: int) -> tuple[FluxTransformer2DModel, nn.Module, str]:
    """A transformer without weights, on the meta device, for features entering block `deepest`.

    Returns:
        The model cut off before that block, without output layers; that block's modulation layer; and the
        prefix of this layer's tensors in the whole model.
    """
    import torch
    from diffusers.models.normalization import AdaLayerNormZero, AdaLayerNormZeroSingle
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    from ditf.backbones.parts.loading import Passthrough

    double = config["num_layers"]
    cut = {**config, "num_layers": min(deepest, double), "num_single_layers": max(deepest - double, 0)}
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(cut)
        model.norm_out, model.proj_out = Passthrough(), Passthrough()
        if deepest < double:
            return model, AdaLayerNormZero(model.inner_dim), f"transformer_blocks.{deepest}.norm1."
        norm = AdaLayerNormZeroSingle(model.inner_dim)
        return model, norm, f"single_transformer_blocks.{deepest - double}.norm."
