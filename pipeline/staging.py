"""Work in progress, kept outside the outputs of a stage so that it survives an interruption.

A folder in staging is named by the fingerprint of what it computes. When complete it is published: its files
are linked, not copied, into the stage's output.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import UserError


def fingerprint(facts: Mapping[str, Any]) -> str:
    """A short name for `facts` (JSON values): equal facts, equal name."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` alone. Raises `UserError` at once where another process holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise UserError(f"{folder}: another process is computing this; wait for it, or stop it and run again") from None


def publish(source: Path, output: Path, names: Collection[str] | None = None) -> None:
    """Make `output` a copy of the folder `source` by hard links; where those cannot be, by copying.

    `names` limits it to some of the files in `source`. `output` appears at once, whole.
    """

    def others(_: str, found: list[str]) -> list[str]:
        return [name for name in found if names is not None and name not in names]

    partial = output.with_name(f".{output.name}.partial")
    for old in (partial, output):
        shutil.rmtree(old, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial, copy_function=_link, ignore=others)
    partial.replace(output)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
