"""`params.yaml`, validated as a whole at the edge: every wrong value is named in a line of its own."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field

from ditf.backbones.base import Backbone
from ditf.backbones.source import ModelSettings
from ditf.datasets.base import Dataset
from ditf.errors import UserError
from ditf.features.fusion import BLOCK, FusionSettings
from ditf.features.settings import ExtractionSettings, Seed
from ditf.registry import find_type
from ditf.settings import Distinct, Settings, parse
from ditf.tasks.base import Task
from ditf.types import ORIGINAL, Rule

FILE = Path("params.yaml")
RESERVED = ("analysis", "drawings", "extraction", "sweeps")  # folders of results that are not of a task
NAME = r"^[A-Za-z0-9][\w-]*$"  # of an entry: it is part of file names, and of DVC's dotted paths
S = TypeVar("S", bound=Settings)
Entry = dict[str, Any]  # as it stands in the file
Known = dict[str, dict[str, Any]]  # the entries read so far, by section and name; None for one that is wrong


class FeaturesEntry(ExtractionSettings):
    """An entry of `features`. In the file, the settings of the backbone stand beside these.

    Attributes:
        dataset: Name of an entry of `datasets`.
        model: Name of an entry of `models`.
        rule: Which sides become `img_size`. "auto" is the rule of the data set's benchmark.
        backbone: Settings of the model's family.
    """

    dataset: str
    model: str
    rule: Literal["auto"] | Rule = "auto"  # type: ignore[assignment]  # wider than the rules of an extraction
    backbone: Backbone


class SweepSettings(Settings):
    """What an entry of `sweeps` has beside the settings of features.

    subset: how many pairs per category, or sequences; or their names. seed: of its choice, and of the noise.
    ensemble_sizes: tried; each is the first noise samples of the largest.
    """

    dataset: str
    model: str
    subset: Annotated[int, Field(ge=1)] | Distinct[str] = 20
    seed: Seed = 0
    ensemble_sizes: Distinct[Annotated[int, Field(ge=1, le=1024)]] = Field(default=[1, 2, 4, 8])


class Sweep(Settings):
    """An entry of `sweeps`. features: by timestep, with the largest ensemble. task: its block is replaced by each."""

    settings: SweepSettings
    features: dict[int, FeaturesEntry]
    task: Task


def _workers(value: Any) -> Any:
    if value == "none" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024):
        return value
    if isinstance(value, str) and value.startswith(("tcp://", "tls://")) and len(value) > len("tcp://"):
        return value
    raise ValueError("use none, a number of workers, or the address of a scheduler such as tcp://10.0.0.1:8786")


class SampleSettings(Settings):
    """Of the embedded sample data."""

    seed: Seed


class Params(Settings):
    """All of `params.yaml`."""

    sample: SampleSettings
    workers: Annotated[Any, AfterValidator(_workers)]
    models: dict[str, ModelSettings]
    datasets: dict[str, Dataset]
    features: dict[str, FeaturesEntry]
    fusions: dict[str, FusionSettings]
    tasks: dict[str, Task]
    sweeps: dict[str, Sweep]

    def sources_of(self, features: str) -> list[str]:
        """The sources of the models behind an entry of `features` or `fusions`."""
        fusion = self.fusions.get(features)
        names = [fusion.first.features, fusion.second.features] if fusion else [features]
        return [self.models[self.features[name].model].source for name in names]


def load_params(path: Path = FILE) -> Params:
    """Read and validate `path`. Raises `UserError` with a line for each wrong field."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return validate(data, str(path))


def validate(data: Any, where: str = str(FILE)) -> Params:
    """Parameters from plain values. Raises `UserError` with a line for each wrong field, which begins with `where`."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: not a mapping of parameters")
    lines: list[str] = []
    entries: Known = {}
    for section in PARSERS:
        given = data.get(section, {} if section in ("fusions", "sweeps") else None)
        entries[section] = {}
        if not isinstance(given, dict):
            lines.append(f"{where}: {section}: missing; give a mapping of entries, or {{}}")
            continue
        for name, entry in given.items():
            try:
                entries[section][name] = _entry(section, name, entry, entries, f"{where}: {section}.{name}")
            except _BrokenEntryError:
                pass  # what is wrong with the entry that this one names is reported there
            except UserError as error:
                lines += str(error).split("\n")
                entries[section][name] = None
    try:
        rest = {key: value for key, value in data.items() if key not in entries}
        params = parse(Params, rest | {section: {} for section in entries}, f"{where}: ")
    except UserError as error:
        lines += str(error).split("\n")
    if lines:
        raise UserError("\n".join(lines))
    return params.model_copy(update=entries)


def _entry(section: str, name: Any, entry: Any, known: Known, where: str) -> Any:
    """An entry of a section, as the class that its type names."""
    if not isinstance(name, str) or not re.match(NAME, name):
        raise UserError(f"{where}: a name has letters, digits, - and _ only")
    if not isinstance(entry, dict):
        raise UserError(f"{where}: not a mapping of settings")
    try:
        return PARSERS[section](name, entry, known, where)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(where) else f"{where}.{text}") from None


def _model(name: str, entry: Entry, known: Known, where: str) -> ModelSettings:
    """An entry of `models`, with options that its family heeds."""
    model = parse(ModelSettings, entry, where)
    model.check_options()
    return model


def _dataset(name: str, entry: Entry, known: Known, where: str) -> Dataset:
    return _typed(Dataset, entry, where)


def _features(name: str, entry: Entry, known: Known, where: str) -> FeaturesEntry:
    """An entry of `features`: the common settings, and those of the model's backbone."""
    _check_names(entry, {"dataset": "datasets", "model": "models"}, known, where)
    kind = find_type(Backbone, known["models"][entry["model"]].type)
    common = set(FeaturesEntry.model_fields) - {"backbone"}
    backbone = parse(kind, {key: value for key, value in entry.items() if key not in common}, where)
    return parse(FeaturesEntry, {k: v for k, v in entry.items() if k in common} | {"backbone": backbone}, where)


def _fusion(name: str, entry: Entry, known: Known, where: str) -> FusionSettings:
    """An entry of `fusions`, and what it says of others."""
    fusion = parse(FusionSettings, entry, where)
    if name in known["features"]:
        raise UserError(f"{where}: features has an entry of this name; give another")
    datasets = []
    for side in ("first", "second"):
        half = getattr(fusion, side)
        _check_names({"features": half.features}, {"features": "features"}, known, f"{where}.{side}")
        features = known["features"][half.features]
        datasets.append(features.dataset)
        if half.descriptor not in features.backbone.descriptors:
            have = ", ".join(features.backbone.descriptors)
            raise UserError(
                f"{where}.{side}.descriptor: {half.descriptor} is not one of features.{half.features}: {have}"
            )
        if missing := [block for block in half.blocks if block not in features.backbone.blocks]:
            raise UserError(f"{where}.{side}.blocks: {missing[0]} is not among those of features.{half.features}")
        if half.pca and len(half.pca) != len(half.blocks):
            raise UserError(f"{where}.{side}.pca: {len(half.pca)} numbers for {len(half.blocks)} blocks")
    if datasets[0] != datasets[1]:
        raise UserError(f"{where}: its halves are of two data sets, {datasets[0]} and {datasets[1]}")
    return fusion


def _task(name: str, entry: Entry, known: Known, where: str) -> Task:
    """An entry of `tasks`, and what it says of others."""
    task = _typed(Task, entry, where)
    if name in RESERVED:
        raise UserError(f"{where}: {name} is a folder of results of its own; give another name")
    section = "fusions" if task.features in known["fusions"] else "features"
    _check_names(
        {"dataset": task.dataset, "features": task.features}, {"dataset": "datasets", "features": section}, known, where
    )
    read = known[section][task.features]
    of = read if section == "features" else known["features"][read.first.features]
    if of.dataset != task.dataset:
        raise UserError(f"{where}.features: {task.features} is of the data set {of.dataset}, not {task.dataset}")
    have, blocks = (ORIGINAL, [BLOCK]) if section == "fusions" else (of.backbone.descriptors, of.backbone.blocks)
    _check_descriptors(task, have, where, f"{section}.{task.features}")
    if task.predict.block not in blocks:
        raise UserError(
            f"{where}.predict.block: {task.predict.block} is not among blocks {blocks} of {section}.{task.features}: "
            "add it there"
        )
    return task


def _sweep(name: str, entry: Entry, known: Known, where: str) -> Sweep:
    """An entry of `sweeps`: the settings of features at each timestep, and the task that scores them."""
    _check_names(entry, {"dataset": "datasets", "model": "models"}, known, where)
    if "ensemble_size" in entry:
        raise UserError(f"{where}.ensemble_size: a sweep has `ensemble_sizes`")
    settings = parse(SweepSettings, {key: entry[key] for key in SweepSettings.model_fields if key in entry}, where)
    aside = ("subset", "ensemble_sizes", "timesteps", "task")
    common = {key: value for key, value in entry.items() if key not in aside}
    common["ensemble_size"] = max(settings.ensemble_sizes)
    timed = "timestep" in find_type(Backbone, known["models"][settings.model].type).model_fields
    timesteps = entry.get("timesteps", [] if timed else [0])
    if not isinstance(timesteps, list) or not timesteps or len({*map(str, timesteps)}) != len(timesteps):
        raise UserError(f"{where}.timesteps: give a list of distinct timesteps, such as [100, 260]")
    features = {t: _features(name, common | ({"timestep": t} if timed else {}), known, where) for t in timesteps}
    task = _sweep_task(entry.get("task"), settings.dataset, next(iter(features.values())).backbone, f"{where}.task")
    return parse(Sweep, {"settings": settings, "features": features, "task": task}, where)


def _sweep_task(entry: Any, dataset: str, backbone: Backbone, where: str) -> Task:
    """The task of a sweep, which says neither what it reads nor which block."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: missing; give its type, predict and score")
    predict = entry.get("predict", {})
    if not isinstance(predict, dict):
        raise UserError(f"{where}.predict: not a mapping of settings")
    if said := [key for key in ("dataset", "features") if key in entry] + ["predict.block"] * ("block" in predict):
        raise UserError(f"{where}.{said[0]}: a sweep says it itself; remove it")
    whole = {"score": {}, **entry, "dataset": dataset, "features": "sweep"}
    task = _typed(Task, whole | {"predict": {**predict, "block": backbone.blocks[0]}}, where)
    _check_descriptors(task, backbone.descriptors, where, "the model")
    return task


# In the order in which entries name those of earlier sections.
PARSERS: dict[str, Callable[[str, Entry, Known, str], Any]] = {
    "models": _model,
    "datasets": _dataset,
    "features": _features,
    "fusions": _fusion,
    "tasks": _task,
    "sweeps": _sweep,
}


def _typed(base: type[S], entry: Entry, where: str) -> S:
    """An entry, as the class that its type names."""
    if "type" not in entry:
        raise UserError(f"{where}.type: missing; add it")
    return parse(find_type(base, entry["type"]), entry, where)


def _check_descriptors(task: Task, have: Sequence[str], where: str, of: str) -> None:
    if unknown := [name for name in task.predict.descriptors if name not in have]:
        raise UserError(
            f"{where}.predict.descriptors: {unknown[0]} is not a descriptor of {of}, which has {', '.join(have)}"
        )


def _check_names(entry: Entry, keys: dict[str, str], known: Known, where: str) -> None:
    """That what an entry names are entries, too. Raises `_BrokenEntryError` for one that is wrong itself."""
    for key, section in keys.items():
        name = entry.get(key)
        if not isinstance(name, str) or name not in known[section]:
            names = ", ".join(known[section]) or "there is none"
            raise UserError(f"{where}.{key}: {name!r} is not an entry of {section}: {names}")
        if known[section][name] is None:
            raise _BrokenEntryError


class _BrokenEntryError(Exception):
    """An entry names one that is wrong."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that occurs twice is an error, and not its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} occurs twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)
