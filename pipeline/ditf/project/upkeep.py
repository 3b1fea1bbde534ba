"""The commands `ditf verify` and `ditf repair`: are the stores and indexes whole, and how they are mended."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from tqdm import tqdm

from ditf.backbones.source import Model
from ditf.config.params import Params
from ditf.errors import UserError
from ditf.features.store import FeatureStore, array_names, metadata_files
from ditf.files import Hashes, exclusive
from ditf.project.entries import check_entry, extraction, pinned, workers_of
from ditf.project.paths import CACHE, FEATURES, MODELS, RESULTS, dvc_objects, staging
from ditf.project.search import require_same
from ditf.project.staging import md5_of, object_path, replace_everywhere
from ditf.retrieval.search import check_index
from ditf.tasks.retrieval import Retrieval

if TYPE_CHECKING:
    from ditf.features.extractor import ExtractionJob, ImageSource


def verify(params: Params, name: str | None) -> None:
    """Read every chunk of the stores, and the indexes, against their checksums. Raises `UserError` that names what is
    damaged."""
    lines = []
    for path in _stores(params, name):
        try:
            store = FeatureStore(path)
        except UserError as error:
            lines.append(str(error))
            continue
        damaged = _damage(store)
        lines += [f"{path}: {what}; run `ditf repair` to compute it again" for what in damaged]
        print(f"{path}: {'whole' if not damaged else f'{len(damaged)} chunks are damaged'}, {len(store)} items")
    for task, found in params.tasks.items():
        folder = RESULTS / task / "predictions"
        if isinstance(found, Retrieval) and name in (None, found.features) and folder.is_dir():
            try:
                check_index(folder)
                print(f"{folder}: whole")
            except UserError as error:
                lines.append(str(error))
    if lines:
        raise UserError("\n".join(lines))


def repair(params: Params, name: str | None) -> None:
    """Compute what is damaged in the stores again, once it is proved that it will be what was there."""
    for path in _stores(params, name):
        metadata = _repair_tables(params, path)
        store = FeatureStore(path)
        damaged = _damage(store)
        if not damaged:
            print(f"{path}: {f'{metadata} files of metadata written anew' if metadata else 'whole'}")
            continue
        _repair_chunks(params, store, damaged)
        print(f"{path}: {len(damaged)} chunks computed again")
    verify(params, name)


def _repair_chunks(params: Params, store: FeatureStore, damaged: dict[str, Path]) -> None:
    """Compute damaged chunks again in a store beside, and put them in their places."""
    from ditf.features.extract import extract
    from ditf.features.store_writer import StoreWriter

    name = store.path.name
    sources, job = _same_as_before(params, name)
    require_same(store, job.extraction_config)
    folder, objects = staging() / "repair" / name, dvc_objects()
    items = [path.relative_to(store.path).as_posix() for path in damaged.values()]
    only = {store.ids[index] for item in items for index in _items_of(store, item)}
    with exclusive(staging() / "features" / name), workers_of(params, params.features[name].model) as client:
        shutil.rmtree(folder, ignore_errors=True)
        shard = store.items_per_file
        fresh = extract(folder, sources, job, client, reuse=[store.path], only=only, shard=shard).path
        for path in damaged.values():
            if (fresh / path.relative_to(store.path)).is_file():
                replace_everywhere(path, fresh / path.relative_to(store.path), objects, _places())
        for path in damaged.values():
            if "/statistics/" in path.as_posix():
                StoreWriter(fresh).write_statistics(FeatureStore(store.path))
                replace_everywhere(path, fresh / path.relative_to(store.path), objects, _places())
        shutil.rmtree(folder)


def _items_of(store: FeatureStore, chunk: str) -> list[int]:
    """Items whose computation gives a chunk again, such as "block28/tokens/c.3.0.0"."""
    array, _, key = chunk.rpartition("/")
    if array.endswith("statistics"):
        return []
    number = int(key.split(".")[1])
    if array.endswith("modulation"):
        return [store.prompt_of.index(number)]
    first = number * store.items_per_file
    return list(range(first, min(first + store.items_per_file, len(store))))


def _repair_tables(params: Params, path: Path) -> int:
    """Write damaged metadata and tables of a store anew; returns the number of files.

    That they are what was there is known by DVC's record of the store, or by the checksum that the store names.
    """
    from ditf.features.extract import lay_out_for

    try:
        FeatureStore(path)
        return 0
    except UserError:
        pass
    sources, job = _same_as_before(params, path.name)
    objects, recorded = dvc_objects(), _recorded(path)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "store.zarr"
        lay_out_for(fresh, sources, job)
        attributes = json.loads((fresh / "zarr.json").read_bytes())["attributes"]
        files = metadata_files(fresh, array_names(attributes))
        wrong = [file for file in files if not _same(file, path / file.relative_to(fresh))]
        for file in wrong:
            name = file.relative_to(fresh).as_posix()
            proved = recorded[name] == md5_of(file) if name in recorded else _named(path) == attributes["checksum"]
            if not proved:
                raise UserError(
                    f"{path}: damaged, and made of other images or with other parameters than now; set them back, "
                    f"or make it anew: `dvc repro -f features@{path.name}`"
                )
        for file in wrong:
            replace_everywhere(path / file.relative_to(fresh), file, objects, _places())
    return len(wrong)


def _same_as_before(params: Params, name: str) -> "tuple[list[ImageSource], ExtractionJob]":
    """The images and the job of a store, with the model's files proved to be those that were pinned."""
    model = params.features[name].model
    pinned(params, model)
    Model.load(MODELS / f"{model}.json").check(Hashes(None))
    return extraction(params, name)


def _recorded(path: Path) -> dict[str, str]:
    """DVC's record of a folder in dvc.lock: {path in it: MD5}; empty where there is none."""
    try:
        stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", []) if out["path"] == path.as_posix()]
        manifest = json.loads(object_path(dvc_objects(), outs[0]["md5"]).read_bytes())
        return {entry["relpath"]: entry["md5"] for entry in manifest}
    except (OSError, ValueError, KeyError, TypeError, IndexError, yaml.YAMLError):
        return {}


def _named(store: Path) -> str | None:
    """The checksum that a store names, if that can be read."""
    try:
        return str(json.loads((store / "zarr.json").read_bytes())["attributes"]["checksum"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same(file: Path, other: Path) -> bool:
    return other.is_file() and other.read_bytes() == file.read_bytes()


def _damage(store: FeatureStore) -> dict[str, Path]:
    """What is damaged in a store, with its file."""
    return dict(tqdm(store.damage(), store.path.name, unit="damaged", delay=1))


def _stores(params: Params, name: str | None) -> list[Path]:
    """The stores of all entries of features that have one, or of `name`."""
    if name is not None:
        check_entry(params.features, name, "features")
    found = [FEATURES / key for key in params.features if name in (None, key) and (FEATURES / key).is_dir()]
    if not found:
        raise UserError(f"{FEATURES / (name or '')}: no features; run `dvc repro`")
    return found


def _places() -> list[Path]:
    """Folders that may hold links to a damaged file."""
    return [CACHE, staging()]
