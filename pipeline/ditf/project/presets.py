"""Presets: named sets of entries that ship with this package and reproduce rows of published tables."""

import copy
import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat

from ditf.backbones.base import HubModel
from ditf.backbones.source import ModelSettings, is_hub
from ditf.config.params import FILE, Params, load_params, validate
from ditf.config.yaml_file import empty_sections, parse_yaml, read_yaml, set_entries
from ditf.errors import UserError, suggest
from ditf.files import write_atomically
from ditf.metrics.display import in_percent
from ditf.metrics.published import PublishedFigure, published_figures
from ditf.settings import Settings, parse

FOLDER = "presets"  # in this package
SECTIONS = ("models", "datasets", "features", "fusions", "tasks", "sweeps")
# Settings of a model that may differ from a preset's, because they change features by rounding at most.
LOCAL = ("device", "batch_size", "offload", "compile")


class DataSource(Settings):
    """Where a data set comes from.

    Attributes:
        title: Its name.
        url: The page that has it.
        note: What has to be done besides unpacking it.
    """

    title: str
    url: str
    note: str = ""


class PresetRow(Settings):
    """A row that a preset computes.

    Attributes:
        title: Short description.
        task: Entry of `tasks`.
        descriptor: Descriptor of the task.
        published: Row of the table of published figures that has the published value, if there is one.
    """

    title: str
    task: str
    descriptor: str
    published: str | None = None


class Bounds(Settings):
    """Bounds of a plausible figure.

    Attributes:
        task: Entry of `tasks`.
        descriptor: Descriptor of the task.
        metric: Name of the metric.
        low: Lower bound in percent.
        high: Upper bound in percent.
        reason: Where the bounds come from.
    """

    task: str
    descriptor: str
    metric: str
    low: FiniteFloat
    high: FiniteFloat
    reason: str


class Header(Settings):
    """The section `preset` of a preset's file.

    Attributes:
        version: Version of the settings. A change of a setting raises it.
        title: What the preset computes.
        source: Papers that its settings come from.
        data: Data sets by name. `--root` gives each a folder, and the `root` of an entry of `datasets` is such a name.
        rows: Rows of published tables.
        unverified: Settings without a published source, such as "features.a.timestep", and how they were chosen.
        differs: Settings that differ from the published ones, and how.
        plausible: Bounds of plausible figures.
    """

    version: int = Field(ge=1)
    title: str
    source: str
    data: dict[str, DataSource]
    rows: list[PresetRow]
    unverified: dict[str, str] = Field(default={})
    differs: dict[str, str] = Field(default={})
    plausible: list[Bounds] = Field(default=[])


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        name: Its name.
        header: What it computes, and where its settings come from.
        sections: Its entries by section and name, as in params.yaml.
    """

    name: str
    header: Header
    sections: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @cached_property
    def params(self) -> Params:
        """The entries as parameters. The folder of a data set is its name in `header.data`."""
        return validate(_document(self.sections), f"preset {self.name}")

    @property
    def models(self) -> dict[str, HubModel]:
        """The published models that the preset needs, by their Hub id."""
        return {model.source: model.backbone.published[model.source] for model in self.params.models.values()}

    def entries(self, roots: Mapping[str, str], sources: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the entries with the user's folders.

        Args:
            roots: Folders of data sets by their names in `header.data`.
            sources: Sources of models by their names in `models`, instead of the preset's.

        Raises:
            UserError: A data set has no folder, or a name is unknown.
        """
        for option, names, known in (
            ("--root", roots, self.header.data),
            ("--model", sources, self.sections["models"]),
        ):
            if unknown := [name for name in names if name not in known]:
                raise UserError(
                    f"{option}: {unknown[0]} is not in the preset {self.name}. {suggest(unknown[0], known)}"
                )
        if missing := [name for name in self.header.data if name not in roots]:
            lines = [
                f"--root: the folder of {data.title} is missing. Give --root {name}=FOLDER; the data is at {data.url}."
                for name, data in self.header.data.items()
                if name in missing
            ]
            raise UserError("\n".join(lines))
        sections: dict[str, dict[str, dict[str, Any]]] = copy.deepcopy(dict(self.sections))  # type: ignore[arg-type]
        for dataset in sections["datasets"].values():
            dataset["root"] = roots[dataset["root"]]
        for name, source in sources.items():
            sections["models"][name]["source"] = source
        return sections

    def remarks(self, task: str) -> dict[str, dict[str, str]]:
        """Return the remarks about settings that a task depends on.

        Args:
            task: An entry of `tasks`.

        Returns:
            For "unverified" and "differs", the reasons by setting.
        """
        entry = self.params.tasks[task]
        fusion = self.params.fusions.get(entry.features)
        features = [fusion.first.features, fusion.second.features] if fusion else [entry.features]
        models = [self.params.features[name].model for name in features]
        used = {("tasks", task), ("datasets", entry.dataset), ("fusions", entry.features)}
        used |= {("features", name) for name in features} | {("models", name) for name in models}
        return {
            kind: {path: reason for path, reason in remarks.items() if tuple(path.split(".")[:2]) in used}
            for kind, remarks in (("unverified", self.header.unverified), ("differs", self.header.differs))
        }

    def published(self, row: PresetRow) -> PublishedFigure | None:
        """Return the published figure that a row refers to, or None."""
        release = self.params.datasets[self.params.tasks[row.task].dataset].release
        key = (row.published, release.title if release else "")
        return next((figure for figure in published_figures() if (figure.row, figure.data) == key), None)


def preset_names() -> list[str]:
    """Return the names of all presets."""
    folder = resources.files("ditf") / FOLDER
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """Read a preset.

    Raises:
        UserError: There is no preset of this name.
    """
    if name not in (names := preset_names()):
        raise UserError(f"{name}: not a preset. {suggest(name, names)}")
    text = (resources.files("ditf") / FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    document = parse_yaml(text, f"{name}.yaml")
    header = parse(Header, document.pop("preset"), f"{name}.yaml: preset")
    return Preset(name, header, document)


def start_project(path: Path, preset: Preset, entries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Replace the entries of a new project's params.yaml by those of a preset.

    Args:
        path: The file.
        preset: The preset.
        entries: Its entries, with the user's folders.

    Raises:
        UserError: An entry is not valid.
    """
    validate(_document(entries), f"preset {preset.name}")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    text = empty_sections("".join(lines), SECTIONS, str(path))
    example = "# The values below run the example that comes with this project"
    start = text.index(example)
    end = text.index("\n\n", start)
    header = (
        f"# The entries below are the preset {preset.name}, version {preset.header.version}: {preset.header.title}."
    )
    note = f"{header}\n# `ditf preset show {preset.name}` says where its settings come from."
    write_atomically(path, (text[:start] + note + text[end:]).encode())
    set_entries(path, entries)


def add_preset(preset: Preset, roots: Mapping[str, str], sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Add the entries of a preset to the project's params.yaml. Equal entries stay as they are.

    A data set that is there already keeps its folder, and a model that is there as a local folder keeps its source.

    Args:
        preset: The preset.
        roots: Folders of data sets.
        sources: Sources of models instead of the preset's.

    Returns:
        The names of the added entries by section.

    Raises:
        UserError: An entry of the same name has other settings, or a data set has no folder.
    """
    before = load_params()
    document = read_yaml(FILE)
    present = document.get("datasets", {})
    known = {
        entry["root"]: present[name]["root"] for name, entry in preset.sections["datasets"].items() if name in present
    }
    entries = preset.entries(known | dict(roots), sources)
    complete = {**document, **{key: {**document.get(key, {}), **named} for key, named in entries.items()}}
    after = validate(complete, f"preset {preset.name}")
    clashes, new = [], dict[str, dict[str, Any]]()
    for section, named in entries.items():
        old, wanted = getattr(before, section), getattr(after, section)
        for name, entry in named.items():
            if name not in old:
                new.setdefault(section, {})[name] = entry
            elif difference := _difference(old[name], wanted[name], _differences_allowed(old[name], name in sources)):
                setting, here, there = difference
                clashes.append(
                    f"{FILE}: {section}.{name}.{setting}: is {here}, but {there} in the preset {preset.name}. "
                    "Rename this entry, or make them equal."
                )
    if clashes:
        raise UserError("\n".join(clashes))
    set_entries(FILE, new)
    return {section: list(named) for section, named in new.items()}


def matching_tasks(params: Params) -> Iterator[tuple[Preset, str]]:
    """Yield the tasks of a project whose settings are those of a preset, wherever their data and models are.

    Args:
        params: Parameters of the project.

    Yields:
        The preset and the name of the task.
    """
    seen = set()
    for preset in map(load_preset, preset_names()):
        if not preset.sections["tasks"].keys() & params.tasks.keys():
            continue
        for name in preset.params.tasks:
            if name in params.tasks and name not in seen and _is_equal(params, preset.params, name):
                seen.add(name)
                yield preset, name


def remarks_of(params: Params) -> dict[str, list[str]]:
    """Return the remarks about settings of tasks that come from presets, such as "unverified: img_size".

    Args:
        params: Parameters of the project.

    Returns:
        Remarks by task. Tasks without remarks are left out.
    """
    remarks: dict[str, list[str]] = {}
    for preset, task in matching_tasks(params):
        for kind, paths in preset.remarks(task).items():
            if paths:
                names = dict.fromkeys(path.rpartition(".")[2] for path in paths)
                remarks.setdefault(task, []).append(f"{kind}: {', '.join(names)}")
    return remarks


def verdicts(params: Params, results: Path) -> list[str]:
    """Say what is not published about the results of presets, and whether figures are plausible.

    Args:
        params: Parameters of the project.
        results: Folder with the results of tasks.

    Returns:
        Lines of text.
    """
    lines = []
    for preset, task in matching_tasks(params):
        path = results / task / "metrics.json"
        if not path.exists():
            continue
        remarks = preset.remarks(task)
        if remarks["unverified"]:
            settings = ", ".join(remarks["unverified"])
            lines.append(f"{task}: unverified, because no source publishes these settings: {settings}")
        if remarks["differs"]:
            lines.append(f"{task}: differs from the published settings: {', '.join(remarks['differs'])}")
        metrics = json.loads(path.read_text(encoding="utf-8"))
        for bounds in preset.header.plausible:
            value = metrics.get(bounds.descriptor, {}).get(bounds.metric) if bounds.task == task else None
            if value is None:
                continue
            percent = in_percent(bounds.metric, value)
            fits = bounds.low <= percent <= bounds.high
            advice = "" if fits else " Run `ditf doctor`, and check the weights and the data."
            lines.append(
                f"{task}: {bounds.metric} {percent:.1f} is {'plausible' if fits else 'not plausible'}; expected "
                f"{bounds.low:g} to {bounds.high:g} ({bounds.reason}).{advice}"
            )
    return lines


def _document(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of a parameter file that has only these entries."""
    return {"sample": {"seed": 0}, "workers": "none", **{section: {} for section in SECTIONS}, **sections}


def _difference(old: Settings, new: Settings, ignored: Set[str] = frozenset()) -> tuple[str, Any, Any] | None:
    """Find the first setting in which two entries differ.

    Args:
        old: An entry.
        new: An entry of the same section.
        ignored: Settings that may differ.

    Returns:
        The setting and both values, or None if the entries are equal.
    """
    if type(old) is not type(new):
        return "type", getattr(old, "type", type(old).__name__), getattr(new, "type", type(new).__name__)
    for name in type(old).model_fields:
        values = getattr(old, name), getattr(new, name)
        if name in ignored or values[0] == values[1]:
            continue
        if not all(isinstance(value, Settings) for value in values):
            return name, *values
        inner = _difference(*values)
        assert inner is not None
        # Settings of a model's family stand beside the others in the file.
        return inner if name == "backbone" else (f"{name}.{inner[0]}", *inner[1:])
    return None


def _differences_allowed(entry: Settings, source_is_given: bool) -> Set[str]:
    """Return the settings in which an entry of the project may differ from a preset's."""
    if not isinstance(entry, ModelSettings):
        return frozenset()
    return frozenset(LOCAL if source_is_given or is_hub(entry.source) else (*LOCAL, "source", "revision"))


def _is_equal(params: Params, expected: Params, task: str) -> bool:
    """Return whether a task, its features and its data set have the expected settings."""
    entry = expected.tasks[task]
    fusion = expected.fusions.get(entry.features)
    names = [fusion.first.features, fusion.second.features] if fusion else [entry.features]
    datasets = [each.datasets.get(entry.dataset) for each in (params, expected)]
    models = {expected.features[name].model for name in names}
    return (
        params.tasks[task] == entry
        and params.fusions.get(entry.features) == fusion
        and all(params.features.get(name) == expected.features[name] for name in names)
        and all(model in params.models and params.models[model].type == expected.models[model].type for model in models)
        and datasets[0] is not None
        and datasets[1] is not None
        and not _difference(datasets[0], datasets[1], {"root"})
    )
