"""Load and run only the part of a diffusers model that the captured blocks need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import no_init_weights
from torch import Tensor, nn

from ditf.backbones.loading import WEIGHTS, read_tensors, weight_index
from ditf.backbones.source import read_config
from ditf.errors import UserError


@dataclass(frozen=True)
class DenoiserLayout:
    """Attributes of a diffusers model class that hold its blocks and the layers around them.

    Attributes:
        kind: Name of the model class.
        stacks: Attributes that hold lists of blocks, in the order in which they run. Blocks are counted across the
            lists.
        outputs: Attributes that hold the layers after the blocks.
        modulation: Layers of a block that compute its AdaLN modulation.
        capture_output: Whether a block's feature is its output rather than its input.
    """

    kind: str
    stacks: tuple[str, ...] = ("transformer_blocks",)
    outputs: tuple[str, ...] = ("norm_out", "proj_out")
    modulation: tuple[str, ...] = ()
    capture_output: bool = False

    def config(self, folder: Path) -> dict[str, Any]:
        """Read the `config.json` of a component. Raises `UserError` if it is for another class."""
        path = folder / "config.json"
        config = read_config(path)
        if config.get("_class_name") != self.kind:
            raise UserError(
                f"{path}: _class_name is {config.get('_class_name')!r}, not {self.kind}. Use the type of that model."
            )
        return config

    def skeleton(self, config: Mapping[str, Any]) -> Any:
        """Build a model from its configuration. Its weights are on the meta device."""
        try:
            with init_empty_weights(), no_init_weights():
                return getattr(diffusers, self.kind).from_config(dict(config)).requires_grad_(False).eval()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"config.json of {self.kind}: cannot be used: {' '.join(str(error).split())}") from None

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the blocks of a model in the order in which they run."""
        return [block for stack in self.stacks for block in getattr(model, stack)]

    def needed(self, model: nn.Module, deepest: int) -> list[str]:
        """Return the names of the tensors that the captured blocks need.

        Args:
            model: The model, with all its blocks.
            deepest: The deepest captured block.
        """
        first, offsets = 0, {}
        for stack in self.stacks:
            offsets[stack] = first
            first += len(getattr(model, stack))
        kept = []
        for name in model.state_dict():
            head, _, parameter = name.partition(".")
            if head in self.outputs:
                continue
            if head in offsets:
                number, _, parameter = parameter.partition(".")
                block = int(number) + offsets[head]
                if block > deepest:
                    continue
                if (
                    block == deepest
                    and not self.capture_output
                    and not any(f"{parameter}.".startswith(f"{m}.") for m in self.modulation)
                ):
                    continue
            kept.append(name)
        return kept

    def check(self, blocks: Iterable[int], model: nn.Module, folder: Path) -> None:
        """Check that the model has all captured blocks.

        Args:
            blocks: Captured blocks.
            model: The model.
            folder: Folder of the model, which the error names.

        Raises:
            UserError: The model does not have a block.
        """
        count, deepest = len(self.blocks(model)), max(blocks)
        if deepest >= count:
            raise UserError(f"blocks: {deepest} is not a block of {folder}, which has 0..{count - 1}.")

    def weight_patterns(self, folder: Path, blocks: Iterable[int]) -> list[str]:
        """Return the names of the weight files that the captured blocks need.

        Args:
            folder: Folder with the model's `config.json` and, if the weights are in several files, their index.
            blocks: Captured blocks.
        """
        index = weight_index(folder)
        if index is None:
            return [WEIGHTS]
        return sorted({index[n] for n in self.needed(self.skeleton(self.config(folder)), max(blocks)) if n in index})

    def load(self, folder: Path, blocks: Iterable[int], dtype: torch.dtype, device: str) -> tuple[Any, list[str]]:
        """Load the part of a model that the captured blocks need.

        Args:
            folder: Folder of a component with safetensors weights.
            blocks: Captured blocks.
            dtype: Type of the computation.
            device: A torch device.

        Returns:
            The model without the other parts, and the names of the tensors that were read.

        Raises:
            UserError: A file is missing or does not fit the class, or the model does not have a captured block.
        """
        model = self.skeleton(self.config(folder))
        self.check(blocks, model, folder)
        names = self.needed(model, max(blocks))
        state = read_tensors(folder, names, dtype, device)
        try:
            self.fill(model, state, device)
        except RuntimeError as error:
            raise UserError(f"{folder}: tensors disagree with config.json: {' '.join(str(error).split())}") from None
        return model, names

    def fill(self, model: nn.Module, state: Mapping[str, Tensor], device: str) -> None:
        """Load weights into a skeleton, and remove the modules whose weights are missing.

        Args:
            model: Result of `skeleton`.
            state: Tensors by name.
            device: Device of the buffers.
        """
        model.load_state_dict(state, assign=True, strict=False)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
        strip(model)
        model.requires_grad_(False).eval()


def capture(
    model: nn.Module,
    stack: Sequence[nn.Module],
    blocks: Iterable[int],
    arguments: Mapping[str, Any],
    capture_output: bool,
) -> dict[int, Tensor]:
    """Run a model up to the deepest captured block.

    Args:
        model: The model.
        stack: All blocks in the order in which they run.
        blocks: Indices of the captured blocks in `stack`.
        arguments: Arguments of the model's forward pass.
        capture_output: Capture the outputs of the blocks instead of their inputs.

    Returns:
        The input or output hidden states of each captured block.
    """
    captured: dict[int, Tensor] = {}
    deepest, handles = max(blocks), []

    def remember(block: int, value: Any) -> None:
        captured[block] = value[0] if isinstance(value, tuple) else value
        if block == deepest:
            raise _ReachedError

    def hook(block: int) -> Any:
        if capture_output:
            return stack[block].register_forward_hook(lambda _module, _args, output: remember(block, output))
        return stack[block].register_forward_pre_hook(
            lambda _module, args, named: remember(block, named.get("hidden_states", args)), with_kwargs=True
        )

    try:
        handles = [hook(block) for block in blocks]
        model(**arguments)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return captured


class _ReachedError(Exception):
    """Stops a forward pass at the deepest captured block."""


def prune(model: nn.Module, needed: Iterable[str]) -> None:
    """Remove the weights of a model that are not needed.

    Args:
        model: The model.
        needed: Names of the tensors to keep.
    """
    kept = set(needed)
    for prefix, module in model.named_modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if (f"{prefix}." if prefix else "") + name not in kept:
                empty = torch.empty(weight.shape, device="meta")
                setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
    strip(model)


def strip(model: nn.Module) -> None:
    """Replace modules whose weights were not loaded with `nn.Identity`. They never run."""
    for name, child in model.named_children():
        weights = list(child.parameters())
        if weights and all(weight.is_meta for weight in weights) and not isinstance(child, nn.ModuleList):
            setattr(model, name, nn.Identity())
        else:
            strip(child)
    for name, weight in list(model.named_parameters(recurse=False)):
        if weight.is_meta:
            delattr(model, name)
