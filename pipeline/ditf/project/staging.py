"""Stores in progress, and stores in DVC's cache whose items need not be computed again.

A folder in staging is named by the fingerprint of what it computes. It stays until DVC's cache is known to hold its
finished store; of unfinished or uncommitted ones the newest few per entry are kept.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ditf.errors import UserError
from ditf.files import exclusive, link

KEPT = 3  # stores of an entry, besides the current one, that DVC's cache does not hold
TABLES = ("zarr.json", "ids/c.0", "keys/c.0")  # what tells stores of the same settings apart


def md5_of(path: Path) -> str:
    """The MD5 of a file, which names its object in DVC's cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def object_path(objects: Path, md5: str) -> Path:
    """The object of DVC's cache with this MD5."""
    return objects / md5[:2] / md5[2:]


def manifests(objects: Path) -> Iterator[dict[str, str]]:
    """The folders in DVC's cache that are feature stores: {path in it: MD5}."""
    for path in objects.glob("??/*.dir"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            files = {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_bytes())}
            if all(name in files for name in TABLES):
                yield files


@contextmanager
def reusable_stores(home: Path, folder: Path, extraction_config: dict[str, Any], objects: Path) -> Iterator[list[Path]]:
    """Stores made as `extraction_config` says, whose items can be copied: in staging, and in DVC's cache.

    Args:
        home: of an entry's folders in staging. folder: the current one, which is left out.
        extraction_config: attribute of the stores requested.
        objects: of DVC's cache.
    """
    found = [path for path in home.glob("*/store.zarr") if path.parent != folder]
    linked = (
        folder / "reusable_stores"
    )  # inside what is held alone, so that two extractions of an entry do not share it
    shutil.rmtree(linked, ignore_errors=True)
    for number, files in enumerate(manifests(objects)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            attributes = json.loads(object_path(objects, files["zarr.json"]).read_bytes())["attributes"]
            if attributes["extraction_config"] != extraction_config:
                continue
            for name, md5 in files.items():
                target = linked / str(number) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    link(object_path(objects, md5), target)
            found.append(linked / str(number))
    try:
        yield found
    finally:
        shutil.rmtree(linked, ignore_errors=True)


def tidy(home: Path, current: Path, objects: Path) -> None:
    """Remove what staging need not keep of an entry: stores that DVC's cache holds, and all but the newest few."""
    known = list(manifests(objects))
    others = [path for path in home.iterdir() if path.is_dir() and path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    kept = 0
    for folder in others:
        held = (folder / "complete").exists() and any(_holds(objects, files, folder / "store.zarr") for files in known)
        if not held:
            kept += 1
        if held or kept > KEPT:
            with suppress(UserError), exclusive(folder):  # one that another process works at stays
                shutil.rmtree(folder)


def _holds(objects: Path, files: dict[str, str], store: Path) -> bool:
    """Whether DVC's cache has every file of a store, as far as names, sizes and the tables' content tell."""
    own = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    if own.keys() != files.keys() or any(md5_of(own[name]) != files[name] for name in TABLES):
        return False
    with suppress(OSError):
        return all(object_path(objects, files[n]).stat().st_size == path.stat().st_size for n, path in own.items())
    return False


def replace_everywhere(path: Path, whole: Path, objects: Path, places: list[Path]) -> None:
    """Replace a damaged file by the whole one, and what is linked to it.

    An object of DVC's cache is replaced only by content of its name, and removed where it has other content.

    Args:
        path: of the damaged file, or of one that is missing.
        whole: what it should be.
        objects: of DVC's cache.
        places: folders that may hold links to the damaged file.
    """
    md5 = md5_of(whole)
    inode = path.stat().st_ino if path.exists() else None
    linked = [p for place in places for p in place.rglob("*") if p.is_file() and p.stat().st_ino == inode]
    for candidate in objects.glob("??/*"):
        if candidate.is_file() and candidate.stat().st_ino == inode and candidate != object_path(objects, md5):
            candidate.unlink()
    own = object_path(objects, md5)
    if own.exists() and md5_of(own) != md5:
        _put(whole, own)
    source = own if own.exists() else whole
    for other in {*linked, path}:
        _put(source, other)


def _put(source: Path, target: Path) -> None:
    """Put a link to `source` in the place of `target`, at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    link(source, partial)
    partial.replace(target)
