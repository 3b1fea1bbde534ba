"""What `ditf spair` and `ditf davis` share: flags about the model, the entries they write, and running them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ditf.errors import UserError
from ditf.project.paths import RESULTS, enter

FLUX = "flux"  # the family that the published scripts run
DELIVERED = ".ditf-delivered"  # the list of files that a run copied into the user's folder
Entries = dict[str, dict[str, Any]]  # the entry of a run in each section of params.yaml

# The flag that sets a field of an entry.
FLAGS = {
    ("models", "type"): "--dit_model",
    ("models", "source"): "--model",
    ("features", "img_size"): "--img_size",
    ("features", "timestep"): "--t",
    ("features", "blocks"): "--k",
    ("features", "ensemble_size"): "--ensemble_size",
    ("datasets", "year"): "--year",
    ("tasks", "predict.block"): "--k",
    ("tasks", "predict.temperature"): "--temperature",
    ("tasks", "predict.n_last_frames"): "--n_last_frames",
    ("tasks", "predict.size_mask_neighborhood"): "--size_mask_neighborhood",
    ("tasks", "predict.topk"): "--topk",
}


def option(name: str, text: str) -> Any:
    """Return an option of the published scripts, spelt with underscores or hyphens."""
    return typer.Option(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), help=text)


ModelSource = Annotated[
    str | None, option("model", "Hub id, folder, miniature, or tiny-SEED. Default: the first that `ditf models` lists.")
]
ModelFamily = Annotated[str, option("dit_model", "Family of the model; `ditf models` lists them.")]
Timestep = Annotated[int | None, option("t", "Timestep. Default: the paper's for FLUX, otherwise the family's.")]
Block = Annotated[int | None, option("k", "Block. Default: the paper's for FLUX, otherwise the family's.")]
EnsembleSize = Annotated[int | None, option("ensemble_size", "Noise samples to average. Default: the family's.")]
Discard = Annotated[bool, typer.Option("--cd", help="Set the massive channels to 0 before the AdaLN modulation.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Name of the task in params.yaml and of its folder in results/. Default: made from the flags."
    ),
]


@dataclass(frozen=True)
class ModelFlags:
    """The flags about the model and its features.

    Attributes:
        family: Family of the model.
        source: Hub id, folder, miniature or tiny-SEED; None for the family's first published model.
        block: Block; None for the default.
        timestep: Timestep; None for the default.
        ensemble_size: Number of noise samples; None for the default.
        discard: Whether to set massive channels to 0.
        img_size: Image size in pixels.
    """

    family: str
    source: str | None
    block: int | None
    timestep: int | None
    ensemble_size: int | None
    discard: bool
    img_size: int


def model_entries(flags: ModelFlags, paper: Mapping[str, int]) -> Entries:
    """Return the entries of a run's model, features and predictions.

    Args:
        flags: The flags.
        paper: Block and timestep of the published script, used for FLUX.

    Returns:
        The entries of `models`, `features` and `tasks`, without names of other entries.

    Raises:
        UserError: A flag is wrong.
    """
    from ditf.backbones.base import Backbone
    from ditf.backbones.source import is_hub
    from ditf.registry import find_type

    try:
        family = find_type(Backbone, flags.family)
    except UserError as error:
        raise UserError(f"--dit_model: {str(error).removeprefix('type: ')}") from None
    if flags.source is None and not family.published:
        raise UserError(f"--model: no published model of type {flags.family} is known. Give a Hub id or a folder.")
    source = flags.source or next(iter(family.published))
    try:
        is_hub(source)
    except UserError as error:
        raise UserError(f"--model: {str(error).removeprefix('source: ')}") from None
    defaults = dict(paper) if flags.family == FLUX else {"block": family.model_fields["blocks"].default[0]}
    block = defaults["block"] if flags.block is None else flags.block
    if source in family.published and not block < family.published[source].blocks:
        raise UserError(f"--k: {block} is not a block of {source}. Use 0 to {family.published[source].blocks - 1}.")
    features: dict[str, Any] = {"img_size": flags.img_size, "blocks": [block]}
    timestep = defaults.get("timestep") if flags.timestep is None else flags.timestep
    for flag, field, value in (
        ("--t", "timestep", timestep),
        ("--ensemble_size", "ensemble_size", flags.ensemble_size),
    ):
        if value is not None and field not in family.model_fields:
            raise UserError(f"{flag}: models of type {flags.family} have no {field}. Leave it out.")
        if value is not None:
            features[field] = value
    modulated = "adaln+discard" in family.descriptors
    if flags.discard and not modulated:
        raise UserError(f"--cd: models of type {flags.family} have no AdaLN. Leave it out.")
    descriptor = "original" if not modulated else "adaln+discard" if flags.discard else "adaln"
    return {
        "models": {"type": flags.family, "source": source, "dtype": "auto"},
        "features": features,
        "tasks": {"predict": {"block": block, "descriptors": [descriptor]}},
    }


def run(entries: Entries, names: Mapping[str, str], name: str | None, root: tuple[str, Path], out: Path) -> None:
    """Write the entries of a run into params.yaml, bring its task up to date, and copy and print the results.

    Entries that are already there are used, never changed.

    Args:
        entries: The run's entries of `models`, `datasets`, `features` and `tasks`.
        names: Names of the entries of `datasets` and `tasks`, such as davis-2017 and davis.
        name: Name of the task; None derives one from the settings.
        root: The flag of the data set's folder, and the folder.
        out: Folder for the results.

    Raises:
        UserError: A flag is wrong, or a stage failed. params.yaml is then as it was.
    """
    from ditf.cli.results import print_task
    from ditf.config.params import FILE, load_params
    from ditf.config.yaml_file import read_yaml, set_entries
    from ditf.files import write_atomically

    flag, folder = root
    if not folder.is_dir():
        raise UserError(f"{flag}: {folder} is not a folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder")
    out, folder = out.resolve(), folder.resolve()
    source = Path(entries["models"]["source"])
    source = source.resolve() if source.is_dir() else source
    enter()
    entries["datasets"]["root"] = _in_project(folder)
    entries["models"]["source"] = _in_project(source)
    load_params()  # errors of the file are not errors of the flags
    document = read_yaml(FILE)
    chosen = _choose_names(document, entries, names, name)
    new = {
        section: {chosen[section]: entry}
        for section, entry in entries.items()
        if chosen[section] not in document[section]
    }
    _check(document, new)
    before = FILE.read_bytes()
    set_entries(FILE, new)
    task = chosen["tasks"]
    try:
        command = [sys.executable, "-m", "dvc", "repro", f"score@{task}", f"draw@{task}"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        if subprocess.run(command, env=os.environ | {"PATH": path}).returncode:
            raise UserError("a stage failed, as reported above. Finished work is kept: run the same command again.")
    except BaseException:
        write_atomically(FILE, before)
        raise
    _deliver(RESULTS / task, out)
    print_task(task)


def _choose_names(
    document: Mapping[str, Any], entries: Entries, names: Mapping[str, str], name: str | None
) -> dict[str, str]:
    """Name the entries by what they run, and let them refer to each other."""
    from ditf.files import fingerprint

    def available(section: str, proposed: str, fixed: bool = False) -> str:
        existing = document[section].get(proposed)
        if existing is None or entries[section].items() <= existing.items():
            return proposed
        if fixed:
            raise UserError(f"--name: {section} has an entry {proposed} with other settings. Use another name.")
        return f"{proposed}-{fingerprint(entries[section])[:6]}"

    model, features, predict = entries["models"], entries["features"], entries["tasks"]["predict"]
    title = re.sub(r"[^A-Za-z0-9]+", "-", Path(model["source"]).name).strip("-").lower()[:40] or "model"
    title = title if title.startswith(model["type"]) else f"{model['type']}-{title}"
    chosen = {"models": available("models", title), "datasets": available("datasets", names["datasets"])}
    features |= {"dataset": chosen["datasets"], "model": chosen["models"]}
    parts = [names["tasks"], title]
    for letter, field in (("t", "timestep"), ("e", "ensemble_size"), ("s", "img_size")):
        parts += [f"{letter}{features[field]}"] if field in features else []
    parts.insert(3 if "timestep" in features else 2, f"k{predict['block']}")
    run_name = "-".join(parts)
    chosen["features"] = available("features", run_name)
    entries["tasks"] |= {"dataset": chosen["datasets"], "features": chosen["features"]}
    discards = predict["descriptors"] == ["adaln+discard"]
    chosen["tasks"] = available("tasks", name or run_name + "-cd" * discards, fixed=bool(name))
    return chosen


def _check(document: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]]) -> None:
    """Validate params.yaml with the new entries. Errors name the flags."""
    from ditf.config.params import validate

    complete = dict(document) | {section: {**document[section], **named} for section, named in new.items()}
    try:
        validate(complete)
    except UserError as error:
        lines = []
        for line in str(error).split("\n"):
            path, _, message = line.removeprefix("params.yaml: ").partition(": ")
            section, _, entry_path = path.partition(".")
            field = re.sub(r"\.\d+$", "", entry_path.partition(".")[2])
            lines.append(f"{FLAGS.get((section, field), '--name' if not field else path)}: {message}")
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _in_project(path: Path) -> str:
    """Return how params.yaml names a path: relative to the project if it lies inside."""
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if inside else path)


def _deliver(results: Path, out: Path) -> None:
    """Copy results into the user's folder, and remove what an earlier run copied there."""
    from ditf.files import reporting_write_errors

    with reporting_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        record = out / DELIVERED
        if record.exists():
            for name in record.read_text(encoding="utf-8").split("\n"):
                if name and (out / name).resolve().is_relative_to(out.resolve()):
                    (out / name).unlink(missing_ok=True)
        files = sorted(path for path in results.rglob("*") if path.is_file() and path.name != ".gitignore")
        names = [path.relative_to(results).as_posix() for path in files]
        record.write_text("\n".join(names) + "\n", encoding="utf-8")
        for path, name in zip(files, names, strict=True):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
