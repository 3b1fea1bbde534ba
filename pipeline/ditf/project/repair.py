"""Repair of stores: damaged chunks are removed, and extraction computes what is missing.

Extraction gives the same bytes again, because the model, the images and the parameters are checked to be unchanged.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ditf.backbones.source import Model
from ditf.config.params import Params
from ditf.errors import UserError
from ditf.features.extract import lay_out_for
from ditf.features.store import FeatureStore, array_names, metadata_files
from ditf.files import Hashes, write_atomically
from ditf.project.entries import extraction, pinned, require_same
from ditf.project.extraction import extract_entry
from ditf.project.freshness import reason_features_changed
from ditf.project.paths import FEATURES, MODELS, dvc_objects, staging
from ditf.project.upkeep import stores


@dataclass(frozen=True)
class Repair:
    """What was repaired in a store.

    Attributes:
        path: The store.
        metadata: Number of files of metadata that were written again.
        chunks: Number of chunks that were computed again.
    """

    path: Path
    metadata: int
    chunks: int


def repair(params: Params, name: str | None) -> list[Repair]:
    """Compute what is damaged in stores again.

    Args:
        params: All parameters.
        name: An entry of `features`, or None for all.

    Returns:
        What was repaired in each store. Stores that share a damaged file are repaired together.

    Raises:
        UserError: The model, an image or a parameter is not what made the store.
    """
    names = [path.name for path in stores(params, name)]
    repairs = []
    for entry in names:  # which grows: a damaged file can be shared with another store
        result, sharing = _repair_store(params, entry)
        repairs.append(result)
        names += [other for other in sharing if other not in names]
    return repairs


def _repair_store(params: Params, name: str) -> tuple[Repair, list[str]]:
    """Repair one store, and name the other entries that shared a damaged file with it."""
    path = FEATURES / name
    metadata, sharing = _repair_metadata(params, path)
    store = FeatureStore(path)
    damaged = {file for _, file in tqdm(store.damage(), name, unit="damaged", delay=1)}
    if damaged:
        _check_unchanged(params, name)
        require_same(store, extraction(params, name)[1].extraction_config)
        sharing += _remove(damaged)
        extract_entry(params, name, resume_output=True)
    if damaged or metadata:
        _commit(name)
    return Repair(path, metadata, len(damaged)), [entry for entry in sharing if entry in params.features]


def _repair_metadata(params: Params, path: Path) -> tuple[int, list[str]]:
    """Write damaged metadata and tables of a store again.

    They follow from the parameters and the catalog, which must be those of the store: the store's own checksum or
    `dvc.lock` proves it.

    Returns:
        The number of files that were written, and the entries that shared a damaged file.
    """
    try:
        FeatureStore(path)
        return 0, []
    except UserError:
        pass
    _check_unchanged(params, path.name)
    sources, job = extraction(params, path.name)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "store.zarr"
        lay_out_for(fresh, sources, job)
        attributes = json.loads((fresh / "zarr.json").read_bytes())["attributes"]
        if _checksum(path) != attributes["checksum"] and reason_features_changed(params, path.name) is not None:
            raise UserError(
                f"{path}: damaged, and made of other images or with other parameters than now. Set them back, or "
                f"extract again: `dvc repro -f features@{path.name}`."
            )
        files = {file: path / file.relative_to(fresh) for file in metadata_files(fresh, array_names(attributes))}
        damaged = {file: target for file, target in files.items() if not _same(file, target)}
        sharing = _remove(damaged.values())
        for file, target in damaged.items():
            write_atomically(target, file.read_bytes())
    return len(damaged), sharing


def _check_unchanged(params: Params, name: str) -> None:
    """Check that the files of an entry's model are those that were pinned, by reading all of them."""
    model = params.features[name].model
    pinned(params, model)
    Model.load(MODELS / f"{model}.json").check(Hashes(None))


def _remove(files: Iterable[Path]) -> list[str]:
    """Remove damaged files, and every link to them: in stores, in staging and in DVC's cache.

    A hard link shares the damaged content. DVC trusts its objects, and would restore the damage from one.

    Args:
        files: The files, in stores; some may be missing.

    Returns:
        The entries whose stores lost a file.
    """
    statuses = [file.stat() for file in files if file.exists()]
    damaged = {(status.st_dev, status.st_ino) for status in statuses}
    entries = set()
    for folder in (FEATURES, staging(), dvc_objects()) if damaged else ():
        for path in folder.rglob("*"):
            if path.is_file() and (path.stat().st_dev, path.stat().st_ino) in damaged:
                path.unlink()
                if folder == FEATURES:
                    entries.add(path.relative_to(FEATURES).parts[0])
    return sorted(entries)


def _commit(name: str) -> None:
    """Have DVC store the repaired files again."""
    command: Sequence[str] = (sys.executable, "-m", "dvc", "commit", "--quiet", "--force", f"features@{name}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"warning: {' '.join(command[2:])} failed: {done.stderr.strip()[-300:]}", file=sys.stderr)


def _checksum(store: Path) -> str | None:
    """Return the checksum that a store names, if it can be read."""
    try:
        return str(json.loads((store / "zarr.json").read_bytes())["attributes"]["checksum"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same(file: Path, other: Path) -> bool:
    return other.is_file() and other.read_bytes() == file.read_bytes()
