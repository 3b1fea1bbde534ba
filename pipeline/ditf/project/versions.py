"""What DVC sees of code and models: one small file per entry of `params.yaml`.

The stage `entries` rewrites the files before every run, and each stage of an entry depends on the entry's file. A
raised `version`, or another commit of a model, changes the file, so that DVC runs what depends on it again.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ditf.backbones.source import Model, ModelSettings, is_hub, pin
from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry
from ditf.errors import UserError
from ditf.files import Hashes, write_atomically
from ditf.project.paths import ENTRIES
from ditf.registry import version_of
from ditf.settings import Settings
from ditf.tasks.base import Task
from ditf.types import STORE_VERSION

# Versions of code outside the classes of entries. Raise one in a change that alters the output of its stage.
STAGE_VERSIONS = {"sample": 2, "analysis": 1, "fusion": 1, "sweep": 2, "draw": 1, "report": 1}

Record = dict[str, Any]


def write_records(params: Params, hashes: Hashes) -> list[str]:
    """Write the file of every entry, and remove the files of entries that are gone.

    Args:
        params: All parameters.
        hashes: Known hashes of model files.

    Returns:
        A line for each model that was not found. Only stages that need the model fail.
    """
    models: dict[str, Record] = {}
    problems = []
    for name, entry in params.models.items():
        try:
            models[name] = pin_model(entry, record_path("models", name), hashes).record
        except UserError as error:
            models[name] = {"error": str(error)}
            problems.append(f"models.{name}: {error}")
    texts = {path: text_of(record) for path, record in records(params, models)}
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())
    for path in set(ENTRIES.rglob("*.json")) - set(texts):
        path.unlink()
    return problems


def records(params: Params, models: Mapping[str, Record]) -> Iterator[tuple[Path, Record]]:
    """Iterate over the files of all entries and what each should hold.

    Args:
        params: All parameters.
        models: The record of each entry of `models`.

    Yields:
        The path of a file, and its record.
    """
    for stage, version in STAGE_VERSIONS.items():
        yield record_path("stages", stage), {"version": version}
    for name, model in models.items():
        yield record_path("models", name), model
    for name, dataset in params.datasets.items():
        yield record_path("datasets", name), _record_of_class(dataset)
    for name, features in params.features.items():
        yield record_path("features", name), _record_of_features(features, models)
    for name, sweep in params.sweeps.items():
        first = next(iter(sweep.features.values()))
        record = {"sweep": STAGE_VERSIONS["sweep"], "task": record_of_task(sweep.task)}
        yield record_path("sweeps", name), _record_of_features(first, models) | record
    for name, task in params.tasks.items():
        yield record_path("tasks", name), record_of_task(task)


def record_path(section: str, name: str) -> Path:
    """Return the file of an entry."""
    return ENTRIES / section / f"{name}.json"


def text_of(record: Record) -> str:
    """Return the text of an entry's file."""
    return json.dumps(record, indent=1) + "\n"


def record_of_task(task: Task) -> Record:
    """Return the versions of a task and of the classes that its settings name, such as a matcher."""
    values = [getattr(task.predict, field) for field in type(task.predict).model_fields]
    parts = [_record_of_class(value) for value in values if isinstance(value, Settings) and hasattr(value, "registry")]
    return _record_of_class(task) | ({"uses": parts} if parts else {})


def pin_model(entry: ModelSettings, path: Path, hashes: Hashes) -> Model:
    """Find out which model an entry names: a commit on the Hub, or the hash of a folder's files.

    A commit that was pinned before stays, even if its branch moved on, until its file is removed. A model that is not
    here any more stays pinned as well, so that its cached features can be used.

    Args:
        entry: The entry of `models`.
        path: The file of the entry.
        hashes: Known hashes of model files.

    Raises:
        UserError: The model is not found, and was not pinned before.
    """
    try:
        known = Model.load(path)
    except UserError:
        known = None
    if known and (known.family, known.source, known.revision) == (entry.type, entry.source, entry.revision):
        known = replace(known, loading=entry.loading)
    else:
        known = None
    try:
        if known and is_hub(entry.source) and not entry.gguf and not known.weights:
            return known
        return pin(entry.type, entry.source, entry.revision, hashes, entry.loading)
    except UserError:
        if known is None:
            raise
        return known


def _record_of_class(settings: Settings) -> Record:
    return {"type": getattr(settings, "type", type(settings).__name__), "version": version_of(type(settings))}


def _record_of_features(entry: FeaturesEntry, models: Mapping[str, Record]) -> Record:
    """Return the model behind an entry of `features`, and the versions of the code that extracts."""
    return {"store": STORE_VERSION, "version": version_of(type(entry.backbone)), "model": models[entry.model]}
