"""Pages and parts of pages that are generated when the documentation is built.

MkDocs calls `on_files` and `on_page_markdown`. Parameters come from the settings classes: names, types and defaults
from pydantic, descriptions from the section "Attributes:" of the docstrings. A parameter without a description is an
error.
"""

import inspect
import json
import subprocess
import sys
import typing
from collections.abc import Set
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ditf.backbones.base import Backbone
from ditf.backbones.source import ModelSettings
from ditf.config.schema import FeaturesEntry, SweepSettings
from ditf.datasets.base import Dataset
from ditf.explore.export import page_files
from ditf.features.settings import FusionHalf, FusionSettings
from ditf.matching.matchers.base import Matcher
from ditf.metrics.protocols import protocols
from ditf.metrics.published import PublishedFigure, published_figures
from ditf.registry import find_type, registered
from ditf.report.records import (
    DataRecord,
    HardwareRecord,
    MetricRecord,
    ModelRecord,
    ProtocolRecord,
    ResultRecord,
    read_record,
)
from ditf.report.result_tables import as_markdown, escape_markdown, result_tables
from ditf.tasks.base import Task

# Entry classes hold these fields for other settings classes, which have tables of their own.
NESTED = {"backbone", "predict", "score", "settings", "features", "task"}
LEADERBOARD = Path(__file__).resolve().parents[1] / "leaderboard"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages: dict[str, str | bytes] = {
        "reference/parameters.md": parameters_page(),
        "reference/cli.md": command_line_page(),
    }
    pages |= {f"explorer/{name}": content for name, content in page_files().items()}  # the page on "Try it"
    for path, content in pages.items():
        if existing := files.get_file_from_path(path):  # of a local export
            files.remove(existing)
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the comments that stand for generated parts of a page."""
    parts = {
        "leaderboard.md": {"leaderboard": leaderboard},
        "reference/file-formats.md": {"record": record_tables},
        "concepts/protocols.md": {"protocols": protocol_table, "published": published_table},
    }
    for name, generate in parts.get(page.file.src_uri, {}).items():
        markdown = markdown.replace(f"<!-- {name} -->", generate())
    return markdown


def protocol_table() -> str:
    """Return the protocols as Markdown."""
    rows = [f"| `{each.name}` | {escape_markdown(each.rules)} |" for each in protocols()]
    return "\n".join(["| protocol | rules |", "| --- | --- |", *rows])


def published_table() -> str:
    """Return the published figures of the package as Markdown."""
    columns = list(PublishedFigure.model_fields)
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for figure in published_figures():
        lines.append(f"| {' | '.join(escape_markdown(str(value)) for value in figure.model_dump().values())} |")
    return "\n".join(lines)


def leaderboard() -> str:
    """Return tables of the records in the folder leaderboard/, and how each was measured, as Markdown.

    Raises:
        UserError: A file is not a valid record.
    """
    records = {path: read_record(path) for path in sorted(LEADERBOARD.glob("*.json"))}
    named = [
        record.model_copy(update={"name": f"{record.source}, {record.name}" if record.source else record.name})
        for record in records.values()
    ]
    rows = ["| result | model | revision | settings | machine | ditf |", "| --- | --- | --- | --- | --- | --- |"]
    for record in named:
        settings = ", ".join(f"{key} {value}" for key, value in record.row.items() if key != "model")
        machine = ", ".join(filter(None, [record.hardware.processor, *record.hardware.gpus]))
        cells = [
            record.name,
            " + ".join(model.source for model in record.models),
            " + ".join(model.digest[:12] for model in record.models),
            settings,
            f"{record.hardware.role}: {machine or record.hardware.system}",
            f"{record.versions.get('ditf', '')} ({record.commit})",
        ]
        rows.append(f"| {' | '.join(map(escape_markdown, cells))} |")
    tables = as_markdown(result_tables(named, figures=published_figures()), decimals=2, intervals=True)
    return "\n".join([tables, "### How they were measured", "", *rows]) if named else "There are no rows yet."


def record_tables() -> str:
    """Return tables of the fields of a published record as Markdown."""
    parts = [table(ResultRecord, set())]
    kinds: dict[str, type[BaseModel]] = {
        "protocol": ProtocolRecord,
        "data": DataRecord,
        "metrics": MetricRecord,
        "models": ModelRecord,
        "hardware": HardwareRecord,
    }
    parts += [f"### `{name}`\n\n{table(kind, set())}" for name, kind in kinds.items()]
    return "\n\n".join(parts)


def command_line_page() -> str:
    """Return the help of every command as Markdown, by typer."""
    command = [sys.executable, "-m", "typer", "ditf.cli.app", "utils", "docs", "--name", "ditf"]
    text = subprocess.run([*command, "--title", "Command line"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return text.replace("&#x27;", "'").replace("&quot;", '"')


def parameters_page() -> str:
    """Return tables of all parameters of `params.yaml` as Markdown."""
    parts = [INTRODUCTION]
    parts.append(section("models", "Models that features come from.", ModelSettings))
    parts.append(
        "## `datasets`\n\nFolders in an official layout. Every entry has a `type` and a `root`, the data set's folder. "
        "The type decides which other parameters there are."
    )
    for name in registered(Dataset):
        parts.append(settings_table(f"`type: {hyphenated(name)}`", find_type(Dataset, name), {"type", "root"}))
    parts.append(section("features", "A data set seen through a model.", FeaturesEntry))
    parts.append("The family of the model adds its own parameters:")
    for name in registered(Backbone):
        parts.append(settings_table(f"Models of type `{hyphenated(name)}`", find_type(Backbone, name)))
    parts.append(section("fusions", "Two entries of `features` as one.", FusionSettings))
    parts.append(settings_table("`first` and `second`", FusionHalf))
    parts.append(
        "## `tasks`\n\nEvery entry has a `type`. `dataset` names an entry of `datasets`, and `features` one of "
        "`features` or `fusions`. `predict` decides predictions, and `score` decides only metrics."
    )
    for name in registered(Task):
        task = find_type(Task, name)
        for group in ("predict", "score"):
            kind = task.model_fields[group].annotation
            assert isinstance(kind, type) and issubclass(kind, BaseModel)
            if kind.model_fields:
                parts.append(settings_table(f"`{group}` of `type: {hyphenated(name)}`", kind))
    parts.append("### Matchers\n\n`matcher` is the name of a type, or a mapping with `type` and its parameters.")
    for name in registered(Matcher):
        parts.append(settings_table(f"`type: {hyphenated(name)}`", find_type(Matcher, name), {"type"}))
    parts.append(section("sweeps", "Searches for the best timestep, block and ensemble size.", SweepSettings))
    return "\n\n".join(parts) + "\n"


def hyphenated(name: str) -> str:
    """Return the name of a type as it is usually written in `params.yaml`."""
    return name.replace("_", "-")


def section(name: str, introduction: str, kind: type[BaseModel]) -> str:
    """Return a section of the page with the parameters of one settings class."""
    return f"## `{name}`\n\n{introduction}\n\n{table(kind, NESTED)}"


def settings_table(title: str, kind: type[BaseModel], omitted: Set[str] = frozenset()) -> str:
    """Return the parameters of a settings class under a heading of their own, after the docstring's first paragraph."""
    summary = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return f"### {title}\n\n{summary}\n\n{table(kind, NESTED | omitted)}"


def table(kind: type[BaseModel], omitted: Set[str]) -> str:
    """Return a Markdown table of the parameters of a settings class, the required ones first.

    Raises:
        ValueError: A parameter has no description.
    """
    described = descriptions(kind)
    rows = []
    for name, field in sorted(kind.model_fields.items(), key=lambda item: not item[1].is_required()):
        if name in omitted:
            continue
        if name not in described:
            raise ValueError(f"{kind.__module__}.{kind.__name__}: {name} is not described under Attributes")
        rows.append(f"| `{name}` | {cell(type_name(field))} | {cell(default_of(field))} | {cell(described[name])} |")
    if not rows:
        return "It has no other parameters."
    return "\n".join(["| parameter | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def descriptions(kind: type) -> dict[str, str]:
    """Return the descriptions of a class's attributes, those of its bases included."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        docstring = griffe.Docstring(inspect.cleandoc(base.__doc__ or ""))
        for part in docstring.parse("google", warnings=False):
            if part.kind is griffe.DocstringSectionKind.attributes:
                texts |= {attribute.name: attribute.description.replace("\n", " ") for attribute in part.value}
    return texts


def type_name(field: FieldInfo) -> str:
    """Return a parameter's type in the words of YAML."""
    return readable(field.annotation)


def readable(kind: Any) -> str:
    """Return the name of a type annotation in the words of YAML."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return readable(arguments[0])
    if origin is list:
        return f"list of {readable(arguments[0])}"
    if origin is dict:
        return "mapping"
    if arguments:  # a union
        return " or ".join(readable(argument) for argument in arguments)
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", type(None): "`null`"}
    return names.get(kind, "mapping" if inspect.isclass(kind) and issubclass(kind, BaseModel) else "any")


def default_of(field: FieldInfo) -> str:
    """Return a parameter's default as it would stand in YAML."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return f"`{getattr(value, 'type', '{}')}`"
    text = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{text}`"


def cell(text: str) -> str:
    """Escape what would end a cell of a Markdown table."""
    return text.replace("|", "\\|")


INTRODUCTION = """# Parameters

`params.yaml` holds all parameters, in sections of named entries. Every command validates the whole file. Each wrong
value is reported in a line of its own, and nothing runs.

Change a value in the file and run `dvc repro`, or try it in an experiment:
`dvc exp run -S features.spair-flux.timestep=200`. [What is out of date](../concepts/out-of-date.md) says which stages
run again.

This page is generated from the classes that validate the file.

| parameter | default | meaning |
| --- | --- | --- |
| `sample.seed` | `0` | Seed of the sample data. |
| `workers` | `none` | Where work runs; see [Use several machines](../how-to/clusters.md). |"""
