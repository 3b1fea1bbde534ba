"""Check that the weights of a model are complete, from the sizes of files and without loading them."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ditf.backbones.source import check_weights
from ditf.errors import UserError

INDEX = "*.safetensors.index.json"


def weight_problems(folder: Path, components: Iterable[str], complete: bool = True) -> Iterator[str]:
    """Yield a line for each problem of the weight files in a model's folder.

    Args:
        folder: Folder of the model.
        components: Subfolders that are read; "" for the folder itself.
        complete: Whether files may not be missing. Those of the Hub's cache may, because they are downloaded when they
            are needed.
    """
    for component in (folder / name for name in components):
        if complete:
            yield from _missing(component)
        for path in sorted(component.glob("*.safetensors")):
            if problem := _size_problem(path):
                yield f"{path}: {problem}. Download it again."


def _missing(component: Path) -> Iterator[str]:
    """Yield a line for each file of a component that is missing."""
    if not component.is_dir():
        yield f"{component}: not found. Download the model again."
        return
    if (component / "config.json").exists() and not any(component.glob(INDEX)):
        try:
            check_weights(component)
        except UserError as error:
            yield str(error)
    for name in missing_shards(component):
        yield f"{component / name}: not found, but the index of the weights lists it. Download it again."


def missing_shards(component: Path) -> list[str]:
    """Return the files that an index of a folder's weights lists and that are not there.

    Raises:
        UserError: An index cannot be read.
    """
    names: set[str] = set()
    for path in component.glob(INDEX):
        try:
            names |= set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not an index of weights ({error}). Download it again.") from None
    return sorted(name for name in names if not (component / name).exists())


def _size_problem(path: Path) -> str | None:
    """Compare the size of a safetensors file with its header, which lists the place of each tensor."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if 8 + length > size:
                return f"has {size:,} bytes, fewer than its header"
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "not a safetensors file"
    return None if size == expected else f"has {size:,} of {expected:,} bytes"
