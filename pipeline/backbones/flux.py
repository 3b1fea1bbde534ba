"""FLUX.1 as a backbone: image, text and timestep in; features and AdaLN modulation at chosen blocks out.

Only what the deepest captured block needs is loaded: the blocks before it, and of itself its modulation layer.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.normalization import AdaLayerNormZero, AdaLayerNormZeroSingle
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Text:
    """An encoded prompt. t5: [tokens, 4096]; clip: the pooled vector, [768] (sizes of FLUX.1-dev)."""

    t5: Tensor
    clip: Tensor


class FluxTransformer:
    """The part of FLUX's transformer that the captured blocks need.

    Args:
        model: the transformer, cut off before the deepest of `blocks`, without output layers; see `skeleton`.
        last_norm: that block's modulation layer.
        blocks: blocks to capture, counted through both kinds (FLUX.1-dev: 0..18 double, 19..56 single).

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
    def load(cls, folder: Path, blocks: Iterable[int], dtype: torch.dtype, device: str) -> "FluxTransformer":
        """Read from the `transformer/` of a diffusers folder, in safetensors, what `blocks` need.

        Raises:
            UserError: a file is missing, has other tensors than FLUX, or `blocks` has one that the model has not.
        """
        config, deepest = transformer_config(folder), max(blocks)
        count = config["num_layers"] + config["num_single_layers"]
        if deepest >= count:
            raise UserError(f"blocks: {deepest} asked for, but {folder} has blocks 0..{count - 1}")
        state = _read_tensors(folder, config, deepest, dtype, device)
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

    @torch.inference_mode()
    def capture(self, latents: Tensor, text: Text, timestep: float, guidance: float) -> dict[int, Tensor]:
        """Image tokens of the residual stream entering each block.

        Args:
            latents: noisy latents, [n, 16, h, w], h and w even.
            text: the prompt, the same for all of them.
            timestep: t, in 0..1000. guidance: the distilled guidance scale.

        Returns:
            For each block [n, h/2 * w/2, C], in the model's dtype.
        """
        n, _, h, w = latents.shape
        t5, clip = (x.to(self.device, self.dtype) for x in (text.t5, text.clip))
        last = self.model(
            hidden_states=pack(latents).to(self.device, self.dtype),
            encoder_hidden_states=t5.expand(n, *t5.shape),
            pooled_projections=clip.expand(n, *clip.shape),
            timestep=self._full(n, timestep / 1000),
            guidance=self._guidance(n, guidance),
            img_ids=_image_ids(h // 2, w // 2).to(self.device, self.dtype),
            txt_ids=torch.zeros(len(t5), 3, device=self.device, dtype=self.dtype),
            return_dict=False,
        )[0]
        captured = {**self._entering, self.blocks[-1]: last}
        self._entering.clear()
        return captured

    @torch.inference_mode()
    def modulation(self, text: Text, timestep: float, guidance: float) -> dict[int, Tensor]:
        """AdaLN shift, scale and gate of each block, [3, C]; the same for every draw and token."""
        time, scale = self._full(1, timestep / 1000) * 1000, self._guidance(1, guidance)
        pooled = text.clip.to(self.device, self.dtype)[None]
        embed = self.model.time_text_embed
        vector = embed(time, pooled) if scale is None else embed(time, scale * 1000, pooled)
        norms = {block: self._norms[block] for block in self.blocks}
        return {b: n.linear(n.silu(vector))[0].reshape(-1, self.model.inner_dim)[:3] for b, n in norms.items()}

    def _full(self, n: int, value: float) -> Tensor:
        return torch.full((n,), value, device=self.device, dtype=self.dtype)

    def _guidance(self, n: int, guidance: float) -> Tensor | None:
        return self._full(n, guidance) if self.model.config.guidance_embeds else None

    def _remember(self, block: int) -> Any:
        def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            self._entering[block] = kwargs["hidden_states"]

        return hook


class _Identity(nn.Module):
    """Stands where the output layers were, so that the model returns its residual stream."""

    def forward(self, hidden_states: Tensor, *_: Any) -> Tensor:
        return hidden_states


def pack(latents: Tensor) -> Tensor:
    """Pack latents 2x2: [n, 16, h, w] to [n, h/2 * w/2, 64]."""
    n, channels, h, w = latents.shape
    squares = latents.reshape(n, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, (h // 2) * (w // 2), channels * 4)


def _image_ids(h: int, w: int) -> Tensor:
    """Position ids (0, row, column) of the image tokens, [h * w, 3]."""
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
        raise UserError(f"{path}: not found; is model.source a diffusers folder of FLUX?") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if config.get("_class_name") != "FluxTransformer2DModel":
        raise UserError(f"{path}: _class_name is {config.get('_class_name')!r}, not FluxTransformer2DModel")
    return config


def weight_patterns(folder: Path, blocks: Iterable[int]) -> list[str]:
    """The weight files of a transformer that features entering `blocks` need: those of a Hub's, to be fetched.

    `folder` holds the config and, if the weights are in several files, their index.
    """
    index = folder / f"{WEIGHTS}.index.json"
    if not index.exists():
        return [WEIGHTS]
    files = _weight_files(folder)
    return sorted({files[n].name for n in needed_tensors(files, transformer_config(folder), max(blocks))})


def _weight_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor of a folder of safetensors, sharded or not."""
    index = folder / f"{WEIGHTS}.index.json"
    if index.exists():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / Path(file).name for name, file in named.items()}
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(f"{path}: not found; weights are read as safetensors only")
    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys(), path)


def skeleton(config: dict[str, Any], deepest: int) -> tuple[FluxTransformer2DModel, nn.Module, str]:
    """A transformer without weights, on the meta device, for features entering block `deepest`.

    Returns:
        The model cut off before that block, without output layers; that block's modulation layer; and the
        prefix of this layer's tensors in the whole model.
    """
    double = config["num_layers"]
    cut = {**config, "num_layers": min(deepest, double), "num_single_layers": max(deepest - double, 0)}
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(cut)
        model.norm_out, model.proj_out = _Identity(), _Identity()
        if deepest < double:
            return model, AdaLayerNormZero(model.inner_dim), f"transformer_blocks.{deepest}.norm1."
        norm = AdaLayerNormZeroSingle(model.inner_dim)
        return model, norm, f"single_transformer_blocks.{deepest - double}.norm."


def _read_tensors(
    folder: Path, config: dict[str, Any], deepest: int, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """The tensors that features entering block `deepest` need, by name."""
    try:
        files = _weight_files(folder)
        names = needed_tensors(files, config, deepest)
        state: dict[str, Tensor] = {}
        for path in sorted({files[name] for name in names}):
            with safe_open(path, "pt", device=device) as file:
                for name in names:
                    if files[name] == path:
                        # A copy lies aligned; from a mapped file, sums would round as the offset happens to be.
                        state[name] = file.get_tensor(name).to(dtype, copy=True)
        return state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: weights cannot be read: {' '.join(str(error).split())}") from None
