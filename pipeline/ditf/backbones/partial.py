"""The part of a diffusers model that chosen blocks need: only that is read and run."""

import json
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
from ditf.errors import UserError


@dataclass(frozen=True)
class DenoiserLayout:
    """Where a model class of diffusers keeps its blocks.

    kind: the class. stacks: its lists of blocks, in the order in which they run; blocks are counted through all of
    them. outputs: its layers after the blocks. modulation: the parts of a block that its AdaLN modulation needs. after:
    whether a block's feature is what it returns; else it is what enters the block.
    """

    kind: str
    stacks: tuple[str, ...] = ("transformer_blocks",)
    outputs: tuple[str, ...] = ("norm_out", "proj_out")
    modulation: tuple[str, ...] = ()
    after: bool = False

    def config(self, folder: Path) -> dict[str, Any]:
        """The config.json of a component's folder, checked to be of this class."""
        path = folder / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: not found; is the source a diffusers folder?") from None
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from None
        if config.get("_class_name") != self.kind:
            raise UserError(f"{path}: _class_name is {config.get('_class_name')!r}, not {self.kind}")
        return config

    def skeleton(self, config: Mapping[str, Any]) -> Any:
        """The whole model of a configuration, its weights on the meta device."""
        try:
            with init_empty_weights(), no_init_weights():
                return getattr(diffusers, self.kind).from_config(dict(config)).requires_grad_(False).eval()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"config.json of {self.kind}: cannot be used: {' '.join(str(error).split())}") from None

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of a model, in the order in which they run."""
        return [block for stack in self.stacks for block in getattr(model, stack)]

    def needed(self, model: nn.Module, deepest: int) -> list[str]:
        """Of a whole model's tensors, those that features at block `deepest` and before need."""
        first, offsets = 0, {}
        for stack in self.stacks:
            offsets[stack] = first
            first += len(getattr(model, stack))
        kept = []
        for name in model.state_dict():
            head, _, rest = name.partition(".")
            if head in self.outputs:
                continue
            if head in offsets:
                number, _, rest = rest.partition(".")
                block = int(number) + offsets[head]
                if block > deepest:
                    continue
                if (
                    block == deepest
                    and not self.after
                    and not any(f"{rest}.".startswith(f"{m}.") for m in self.modulation)
                ):
                    continue
            kept.append(name)
        return kept

    def check(self, blocks: Iterable[int], model: nn.Module, folder: Path) -> None:
        """Raises `UserError` for a block that the model has not."""
        count, deepest = len(self.blocks(model)), max(blocks)
        if deepest >= count:
            raise UserError(f"blocks: {deepest} is not a block of {folder}, which has 0..{count - 1}")

    def weight_patterns(self, folder: Path, blocks: Iterable[int]) -> list[str]:
        """The names of the weight files that features at `blocks` need.

        `folder` holds the config and, if the weights are in several files, their index.
        """
        index = weight_index(folder)
        if index is None:
            return [WEIGHTS]
        return sorted({index[n] for n in self.needed(self.skeleton(self.config(folder)), max(blocks)) if n in index})

    def load(self, folder: Path, blocks: Iterable[int], dtype: torch.dtype, device: str) -> tuple[Any, list[str]]:
        """Read from a component's folder, in safetensors, what `blocks` need.

        Returns:
            The model, without what is not needed, and the names of the tensors that were read.

        Raises:
            UserError: a file is missing, has other tensors than the class, or `blocks` has one that the model has not.
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
        """Give a skeleton its weights, and take away what then has none."""
        model.load_state_dict(state, assign=True, strict=False)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
        strip(model)
        model.requires_grad_(False).eval()


def capture(
    model: nn.Module, stack: Sequence[nn.Module], blocks: Iterable[int], arguments: Mapping[str, Any], after: bool
) -> dict[int, Tensor]:
    """Run a model up to the deepest of `blocks`, and give what enters each, or what it returns where `after`.

    Args:
        model: it is called with `arguments`.
        stack: its blocks, in the order in which they run.
        blocks: numbers of blocks in the stack.
    """
    found: dict[int, Tensor] = {}
    deepest, handles = max(blocks), []

    def remember(block: int, value: Any) -> None:
        found[block] = value[0] if isinstance(value, tuple) else value
        if block == deepest:
            raise _ReachedError

    def hook(block: int) -> Any:
        if after:
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
    return found


class _ReachedError(Exception):
    """The deepest captured block is reached; nothing after it has to run."""


def prune(model: nn.Module, needed: Iterable[str]) -> None:
    """Take away the weights of a whole model that are not needed."""
    kept = set(needed)
    for prefix, module in model.named_modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if (f"{prefix}." if prefix else "") + name not in kept:
                empty = torch.empty(weight.shape, device="meta")
                setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
    strip(model)


def strip(model: nn.Module) -> None:
    """Replace the modules of which all weights are on the meta device by ones that do nothing; they never run."""
    for name, child in model.named_children():
        weights = list(child.parameters())
        if weights and all(weight.is_meta for weight in weights) and not isinstance(child, nn.ModuleList):
            setattr(model, name, nn.Identity())
        else:
            strip(child)
    for name, weight in list(model.named_parameters(recurse=False)):
        if weight.is_meta:
            delattr(model, name)
