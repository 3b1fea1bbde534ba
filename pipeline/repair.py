"""Rebuilding the damaged files of a store, from what is whole in them and from what is computed again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store import VERSION, FeatureStore, layout_checksum, layout_files, pack_chunk, pack_shard, shard_path
from pipeline.writer import remove_partials, write_durably

Damage = Mapping[str, list[tuple[int, str]]]


def rebuild_shards(store: FeatureStore, damage: Damage, fresh: FeatureStore, linked: Iterable[Path]) -> int:
    """Write every damaged shard of `store` anew.

    Args:
        store: the damaged one.
        damage: its damaged arrays by item, as `FeatureStore.damage` gives them.
        fresh: the same features of those items, computed again.
        linked: folders that may hold the same files by hard links, such as DVC's cache; these are mended too.

    Returns:
        The number of shards written.
    """
    remove_partials(store.path)
    links = _links(linked)
    shards = {
        (block, name, store.index(item) // store.layout(block, name)[0])
        for item, arrays in damage.items()
        for block, name in arrays
    }
    for block, name, shard in sorted(shards):
        size, rows = store.layout(block, name)
        chunks = []
        for item in store.ids[shard * size : (shard + 1) * size]:
            source = fresh if (block, name) in damage.get(item, ()) else store
            chunks.append(pack_chunk(source.array(block, name, item), rows))
        _replace(shard_path(store.path / f"block{block}/{name}", shard), b"".join(pack_shard(chunks, size)), links)
    return len(shards)


def rebuild_layout(store: Path, fresh: Sequence[Path], linked: Iterable[Path]) -> int:
    """Write anew what is damaged of the metadata and tables of a store that cannot be opened.

    Args:
        store: the damaged one.
        fresh: stores without shards, laid out as it may have been; the last is the likeliest.
        linked: as for `rebuild_shards`.

    Returns:
        The number of files written.

    Raises:
        UserError: what it was cannot be known: none of `fresh` has the checksum that it names, nor is the file
            that should name it all that differs from the last.
    """
    named = attributes_of(store)
    known = [whole for whole in fresh if layout_checksum(whole) == named.get("checksum")]
    whole = (known or fresh)[-1]
    names = [path.relative_to(whole) for path in layout_files(whole)]
    wrong = [n for n in names if not (store / n).is_file() or (store / n).read_bytes() != (whole / n).read_bytes()]
    if not known and (wrong != [Path("zarr.json")] or named.get("version", VERSION) != VERSION):
        raise UserError(
            f"{store}: damaged, and made of other images, with other parameters or by another version than now; "
            f"set them back, or remove `cache/staging` and make it anew: `dvc repro -sf features@{store.name}`"
        )
    remove_partials(store)
    links = _links(linked)
    for name in wrong:
        _replace(store / name, (whole / name).read_bytes(), links)
    return len(wrong)


def attributes_of(store: Path) -> dict[str, Any]:
    """The attributes of a store that cannot be opened, as far as they can be read."""
    try:
        found = json.loads((store / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def check_made_by(store: FeatureStore, facts: Mapping[str, object], keys: Mapping[str, str]) -> None:
    """Raises `UserError` unless `store` was made as `facts` say, of the images of `keys` (id: key)."""
    for name, wanted in facts.items():
        if store.attributes.get(name) != wanted:
            raise UserError(
                f"{store.path}: made with {name} {store.attributes.get(name)}, but now it is {wanted}; "
                "set it back, or run `dvc repro`"
            )
    if dict(zip(store.ids, store.keys, strict=True)) != keys:
        raise UserError(f"{store.path}: made of other images than the catalog now lists; run `dvc repro`")


def _replace(path: Path, data: bytes, links: Mapping[int, list[Path]]) -> None:
    """Write a file anew, and what is linked to it. It comes last: a kill before leaves it to be repaired again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    repaired = path.with_name(f".{path.name}.repaired")
    write_durably(repaired, data)
    for other in links.get(path.stat().st_ino, []) if path.exists() else []:
        partial = other.with_name(f".{other.name}.repaired")
        partial.unlink(missing_ok=True)
        partial.hardlink_to(repaired)
        partial.replace(other)
    repaired.replace(path)


def _links(folders: Iterable[Path]) -> dict[int, list[Path]]:
    """All files in `folders`, by inode."""
    found: dict[int, list[Path]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found.setdefault(path.stat().st_ino, []).append(path)
    return found
