"""Rebuilding the damaged shards of a store, from what is whole in them and from features computed again."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.store import FeatureStore, pack_chunk, pack_shard, shard_path
from pipeline.writer import write_durably

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
    for partial in store.path.rglob(".*"):  # of a repair in whose midst a kill came
        partial.unlink()
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
            chunks.append(b"".join(pack_chunk(source.array(block, name, item), rows)))
        path = shard_path(store.path / f"block{block}/{name}", shard)
        repaired = path.with_name(f".{path.name}.repaired")
        write_durably(repaired, b"".join(pack_shard(chunks, size)))
        # The store's own file comes last: a kill before that leaves it damaged, to be repaired again.
        others = links.get(path.stat().st_ino, []) if path.exists() else []
        for other in others:
            partial = other.with_name(f".{other.name}.repaired")
            partial.unlink(missing_ok=True)
            partial.hardlink_to(repaired)
            partial.replace(other)
        repaired.replace(path)
    return len(shards)


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


def _links(folders: Iterable[Path]) -> dict[int, list[Path]]:
    """All files in `folders`, by inode."""
    found: dict[int, list[Path]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found.setdefault(path.stat().st_ino, []).append(path)
    return found
