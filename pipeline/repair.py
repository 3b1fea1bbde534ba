"""Rebuilding the damaged shards of a store, from what is whole in them and from features computed again."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.store import FeatureStore, pack_chunk, pack_shard
from pipeline.writer import write_durably


def repair(store: FeatureStore, damage: Mapping[str, list[str]], fresh: FeatureStore, linked: Iterable[Path]) -> int:
    """Write every damaged shard of `store` anew.

    Args:
        store: the damaged one.
        damage: its damaged arrays by item, as `FeatureStore.damage` gives them.
        fresh: the same features of those items, computed again.
        linked: folders that may hold the same files by hard links, such as DVC's cache; these are mended too.

    Returns:
        The number of shards written.
    """
    shards = {(name, store.index(item) // store.shard_size(name)) for item, names in damage.items() for name in names}
    others: dict[int, list[Path]] = {}
    for folder in linked:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                others.setdefault(path.stat().st_ino, []).append(path)
    for name, shard in sorted(shards):
        size = store.shard_size(name)
        block, array = int(name.split("/")[0].removeprefix("block")), name.split("/")[1]
        chunks = []
        for item in store.ids[shard * size : (shard + 1) * size]:
            source = fresh if name in damage.get(item, ()) else store
            values = source.stored(block, item)[array]
            chunks.append(b"".join(pack_chunk(values, store.rows(name))))
        path = store.path / name / f"c/{shard}/0/0"
        old = path.stat().st_ino if path.exists() else None
        write_durably(path, b"".join([*chunks, pack_shard([len(chunk) for chunk in chunks], size)]))
        for other in others.get(old, []) if old is not None else []:
            if other.resolve() != path.resolve():
                partial = other.with_name(f".{other.name}.{os.getpid()}")
                os.link(path, partial)
                partial.replace(other)
    return len(shards)


def differences(store: FeatureStore, made_by: Mapping[str, object], keys: Mapping[str, str]) -> None:
    """Raises `UserError` where `store` was made otherwise than `made_by`, or of other images than `keys` (id: key)."""
    for name, wanted in made_by.items():
        if store.attributes.get(name) != wanted:
            raise UserError(
                f"{store.path}: made with {name} {store.attributes.get(name)}, but now it is {wanted}; "
                "set it back, or run `dvc repro`"
            )
    if dict(zip(store.ids, store.keys, strict=True)) != keys:
        raise UserError(f"{store.path}: made of other images than the catalog now lists; run `dvc repro`")
