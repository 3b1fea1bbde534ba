"""Files that appear whole or not at all, and the fingerprints by which they are known."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ditf.errors import UserError


def bytes_in(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fingerprint(value: Any) -> str:
    """A short name of a JSON value: equal values, equal names."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path) -> None:
    """Remove the files that a kill left half-written in `folder`, this module's and zarr's."""
    for partial in folder.rglob("*.partial"):
        partial.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` alone. Raises `UserError` at once where another process holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise UserError(f"{folder}: another process is computing this; wait for it, or stop it and run again") from None


def publish(source: Path, output: Path) -> None:
    """Make `output` a copy of the folder `source`, by hard links where possible. It appears at once, whole."""
    partial = output.with_name(f".{output.name}.partial")
    for old in (partial, output):
        shutil.rmtree(old, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial, copy_function=link)
    partial.replace(output)


def link(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where file systems do not allow one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Hashes:
    """SHA-256 of large files, remembered while their size, time and inode stay the same.

    Args:
        path: of the JSON file that remembers; None remembers nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._known = path, dict[str, Any]()
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                self._known = json.loads(path.read_text(encoding="utf-8"))

    def of(self, file: Path) -> str:
        """The SHA-256 of `file`."""
        status = file.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = self._known.get(str(file.resolve()))
        if not (isinstance(entry, Mapping) and entry.get("state") == state):
            entry = {"state": state, "sha256": sha256_of(file)}
            self._known[str(file.resolve())] = entry
            if self.path is not None:
                write_whole(self.path, json.dumps(self._known).encode())
        return str(entry["sha256"])
