"""Checks across entries of `params.yaml`: what an entry uses of another one must be there."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import InitErrorDetails

from ditf.features.settings import FUSED_BLOCK, FusionSettings
from ditf.settings import Entries, problem
from ditf.tasks.base import Task
from ditf.types import ORIGINAL

RESERVED = ("analysis", "drawings", "extraction", "sweeps")  # folders of results that belong to no task


def reference_problems(name: str, entry: Any, entries: Entries) -> list[InitErrorDetails]:
    """Check what an entry says about the entries that it names.

    Args:
        name: Its name.
        entry: The entry. The entries that it names exist and are valid.
        entries: All entries of earlier sections.

    Returns:
        The problems, located below the entry.
    """
    if isinstance(entry, FusionSettings):
        return list(_fusion_problems(name, entry, entries))
    return list(_task_problems(name, entry, entries)) if isinstance(entry, Task) else []


def descriptor_problems(task: Task, descriptors: tuple[str, ...], owner: str) -> Iterator[InitErrorDetails]:
    """Yield a problem if a task uses descriptors that its features do not have.

    Args:
        task: The task.
        descriptors: The descriptors of its features.
        owner: What has these descriptors, for the message.
    """
    if unknown := [name for name in task.predict.descriptors if name not in descriptors]:
        message = f"{unknown[0]} is not a descriptor of {owner}. Use {', '.join(descriptors)}."
        yield problem(("predict", "descriptors"), message)


def _fusion_problems(name: str, fusion: FusionSettings, entries: Entries) -> Iterator[InitErrorDetails]:
    if name in entries.valid["features"]:
        yield problem((), "features has an entry of the same name. Use another name.")
    for side in ("first", "second"):
        half = getattr(fusion, side)
        backbone = entries.find(half.features, "features").backbone
        if half.descriptor not in backbone.descriptors:
            have = ", ".join(backbone.descriptors)
            message = f"{half.descriptor} is not a descriptor of features.{half.features}. Use {have}."
            yield problem((side, "descriptor"), message)
        if missing := [block for block in half.blocks if block not in backbone.blocks]:
            yield problem((side, "blocks"), _not_captured(missing[0], backbone.blocks, f"features.{half.features}"))
        if half.pca and len(half.pca) != len(half.blocks):
            message = f"has {len(half.pca)} values for {len(half.blocks)} blocks. Give one for each block."
            yield problem((side, "pca"), message)
    datasets = [entries.find(half.features, "features").dataset for half in (fusion.first, fusion.second)]
    if datasets[0] != datasets[1]:
        message = f"joins features of two data sets, {datasets[0]} and {datasets[1]}. Use features of one data set."
        yield problem((), message)


def _task_problems(name: str, task: Task, entries: Entries) -> Iterator[InitErrorDetails]:
    if name in RESERVED:
        yield problem((), f"{name} is a folder of other results. Use another name.")
    features = entries.find(task.features, "features", "fusions")
    fused = isinstance(features, FusionSettings)
    source = entries.find(features.first.features, "features") if fused else features
    if source.dataset != task.dataset:
        message = (
            f"{task.features} has features of {source.dataset}, not of {task.dataset}. Change dataset or features."
        )
        yield problem(("features",), message)
    owner = f"{'fusions' if fused else 'features'}.{task.features}"
    yield from descriptor_problems(task, ORIGINAL if fused else source.backbone.descriptors, owner)
    blocks = [FUSED_BLOCK] if fused else source.backbone.blocks
    if task.predict.block not in blocks:
        yield problem(("predict", "block"), _not_captured(task.predict.block, blocks, owner))


def _not_captured(block: int, blocks: list[int], owner: str) -> str:
    choice = f"choose {blocks[0]}" if len(blocks) == 1 else f"choose one of {blocks}"
    advice = f"{choice.capitalize()}." if owner.startswith("fusions") else f"Add {block} to its blocks, or {choice}."
    return f"{block} is not captured by {owner} (blocks: {blocks}). {advice}"
