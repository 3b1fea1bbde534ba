"""Fit models into a GPU's memory: offloaded blocks, quantized weights and GGUF files."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn

from ditf.backbones.partial import DenoiserLayout, prune
from ditf.errors import UserError

if TYPE_CHECKING:
    from ditf.backbones.diffusion.denoiser import LoadedDiffusion

HOOK = "group_offloading"  # name of a hook in diffusers


def offload_blocks(loaded: LoadedDiffusion, device: str) -> None:
    """Keep the blocks of a model in the CPU's memory, and copy each to `device` while it runs.

    On a GPU, the next block is copied while the current one runs. This uses the group offloading of diffusers.

    Args:
        loaded: The model.
        device: Device that runs the blocks.
    """
    loaded.keep_resident(device)
    layout = loaded.layout
    running = layout.blocks(loaded.model)[: max(loaded.blocks) + layout.capture_output]
    stream = device != "cpu"
    holder = nn.Module()
    holder.blocks = nn.ModuleList(running)
    where = (torch.device(device), torch.device("cpu"))
    apply_group_offloading(holder, *where, "block_level", num_blocks_per_group=1, use_stream=stream)
    if stream:  # diffusers learns the order of the blocks in a complete pass, which never happens here
        hooks: list[Any] = [HookRegistry.check_if_exists_or_initialize(block).get_hook(HOOK) for block in running]
        for hook, following in pairwise(hooks):
            hook.next_group = following.group
            following.group.onload_self, following.group.non_blocking = False, True


def offload_encoders(pipeline: Any, device: str) -> None:
    """Keep the text encoders of a pipeline in the CPU's memory, and copy each layer to `device` while it runs."""
    where = (torch.device(device), torch.device("cpu"))
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            apply_group_offloading(component, *where, "leaf_level", use_stream=device != "cpu")


def quantize(layout: DenoiserLayout, model: nn.Module, method: str, dtype: torch.dtype) -> None:
    """Store the weights of the blocks' linear layers in 8 or 4 bits. The modulation stays exact.

    Args:
        layout: Layout of the model.
        model: The model on the CPU.
        method: "int8" (with torchao) or "nf4" (with bitsandbytes).
        dtype: Type of the computation.

    Raises:
        UserError: The library is not installed.
    """
    library = _imported("torchao.quantization" if method == "int8" else "bitsandbytes", f"quantize: {method}")
    for block in layout.blocks(model):
        linear = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}
        chosen = {name: layer for name, layer in linear.items() if name.split(".")[0] not in layout.modulation}
        if method == "int8":
            ids = set(map(id, chosen.values()))
            library.quantize_(block, library.Int8WeightOnlyConfig(), lambda layer, _, ids=ids: id(layer) in ids)
            continue
        for name, layer in chosen.items():
            small = library.nn.Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, quant_type="nf4"
            )
            small.weight = library.nn.Params4bit(layer.weight.data.contiguous(), requires_grad=False, quant_type="nf4")
            small.bias = layer.bias
            parent, _, attribute = name.rpartition(".")
            setattr(block.get_submodule(parent), attribute, small)


def read_gguf(
    layout: DenoiserLayout, folder: Path, file: Path, blocks: Iterable[int], dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """Read a transformer with quantized weights from a GGUF file. Only weights that the captured blocks need are kept.

    Args:
        layout: Layout of the model.
        folder: Folder with the model's `config.json`.
        file: The GGUF file.
        blocks: Captured blocks.
        dtype: Type of the computation.

    Returns:
        The model on the CPU, and the names of the tensors that are kept.

    Raises:
        UserError: The file cannot be read, or the library gguf is not installed.
    """
    _imported("gguf", "gguf")
    layout.config(folder)
    try:
        model = getattr(diffusers, layout.kind).from_single_file(
            str(file),
            config=str(folder),
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
            dtype=dtype,
            local_files_only=True,
        )
    except Exception as error:  # the readers of diffusers raise exceptions of many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read as the GGUF file of {layout.kind}: {reason:.200}") from None
    layout.check(blocks, model, folder)
    needed = layout.needed(model, max(blocks))
    prune(model, needed)
    return model.requires_grad_(False).eval(), needed


def compile_blocks(layout: DenoiserLayout, network: Any) -> None:
    """Compile the modules that diffusers names as repeated. If it names none, compile the blocks."""
    try:
        network.compile_repeated_blocks()
    except ValueError:
        for block in layout.blocks(network):
            block.compile()


def _imported(name: str, option: str) -> Any:
    """Import a library that an option needs. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise UserError(f"{option}: needs {package}. Run `pip install {package}`.") from None
