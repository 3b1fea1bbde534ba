"""Writing files: complete or not at all, with one-line errors; and the hashes that identify their content."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ditf.errors import UserError, describe_os_error


@contextmanager
def reporting_write_errors(path: Path | str) -> Iterator[None]:
    """Turn every error of the operating system into a `UserError` of one line that names the path.

    Wrap code that writes files in it::

        with reporting_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / "table.parquet")

    Args:
        path: The file or folder that is written. The error names it unless the operating system names another file.

    Raises:
        UserError: The disk is full or read-only, a name is too long, or anything else prevents writing.
    """
    try:
        yield
    except OSError as error:
        raise UserError(describe_os_error(error, error.filename or path)) from None


@contextmanager
def warning_if_unwritable(path: Path | str) -> Iterator[None]:
    """Print a warning and continue where a file cannot be written.

    Wrap code in it that writes something beside the result, such as a drawing, so that the result is not lost::

        with warning_if_unwritable(drawing):
            draw(drawing)

    Args:
        path: The file or folder that is written.
    """
    try:
        with reporting_write_errors(path):
            yield
    except UserError as error:
        print("\n".join(f"warning: {line}" for line in str(error).split("\n")), file=sys.stderr)


def bytes_in(folder: Path) -> int:
    """Return the total size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fingerprint(value: Any) -> str:
    """Return a name of 32 hexadecimal digits for a JSON value. Equal values have equal names."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that even after a crash it is complete, or as it was before.

    Args:
        path: The file. Folders that are missing are created.
        data: Its content.

    Raises:
        UserError: The file cannot be written.
    """
    # The name of the partial file does not grow with the file's name, which may be as long as the system allows.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError(describe_os_error(error, path)) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder and its content, if it exists.

    Raises:
        UserError: A file in it cannot be removed. The error names the folder.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(describe_os_error(error, folder)) from None


def remove_partials(folder: Path) -> None:
    """Remove the incomplete files that a killed process left in a folder, including incomplete files of zarr."""
    with reporting_write_errors(folder):
        for partial in folder.rglob("*.partial"):
            partial.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Prevent other processes from working in a folder at the same time.

    Args:
        folder: The folder. The lock is a file beside it.

    Raises:
        UserError: Another process works in the folder, or the lock cannot be written.
    """
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)
    with reporting_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            message = "another process is computing this. Wait for it, or stop it and run again."
            raise UserError(f"{folder}: {message}") from None
    try:
        yield
    finally:
        lock.release()


def publish(source: Path, output: Path) -> None:
    """Replace a folder by a copy of another, made of hard links where possible.

    Args:
        source: The folder to copy.
        output: The folder to replace. It is removed only when the copy is complete.

    Raises:
        UserError: The copy cannot be written.
    """
    partial = output.with_name(f".{output.name}.partial")
    with reporting_write_errors(output):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in sorted(source.rglob("*")):  # a folder comes before its content
            target = partial / path.relative_to(source)
            if path.is_dir():
                target.mkdir()
            else:
                link(path, target)
        if output.exists():
            shutil.rmtree(output)
        partial.replace(output)


def link(source: str | Path, target: str | Path) -> None:
    """Make a hard link, or a copy where the file systems do not allow one.

    Args:
        source: An existing file.
        target: The file to make.

    Raises:
        UserError: The copy cannot be written.
    """
    try:
        os.link(source, target)
    except OSError:
        with reporting_write_errors(target):
            shutil.copy2(source, target)


class Hashes:
    """The SHA-256 of large files, computed again only when their size, times or inode change.

    Args:
        path: The JSON file that stores the hashes, or None to store nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._known = path, dict[str, Any]()
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                self._known = json.loads(path.read_text(encoding="utf-8"))

    def of(self, file: Path) -> str:
        """Return the SHA-256 of a file as hexadecimal digits."""
        status = file.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = self._known.get(str(file.resolve()))
        if not (isinstance(entry, Mapping) and entry.get("state") == state):
            entry = {"state": state, "sha256": sha256_of(file)}
            self._known[str(file.resolve())] = entry
            if self.path is not None:
                with contextlib.suppress(UserError):  # the hash is computed again next time
                    write_atomically(self.path, json.dumps(self._known).encode())
        return str(entry["sha256"])
