"""Write and read checkpoints so that an interruption never leaves a broken file, and read logs."""

import json
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` in one step.

    Args:
        path: File to write.
        state: Tensors, numbers and nested dictionaries of them.
    """
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, one for each step.

    Steps that were repeated after an interruption keep their last record.
    """
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = {record["step"]: record for record in records}
    return [steps[step] for step in sorted(steps)]


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state stored in `path`, or None if there is no such file."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
