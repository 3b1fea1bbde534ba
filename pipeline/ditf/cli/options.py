"""Options that several commands share, and checks that run before a command does any work."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ditf.errors import UserError
from ditf.project.paths import enter

if TYPE_CHECKING:
    from ditf.config.params import Params
    from ditf.report.records import ResultRecord

IMAGE_FORMATS = (".png", ".jpg", ".pdf", ".svg")

TaskName = Annotated[
    str | None,
    typer.Option("--task", help="A task of type retrieval. Default: the task that has IMAGE, or the only task."),
]
Features = Annotated[str | None, typer.Option("--features", help="An entry of features. Default: all entries.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", help="Prompt for an image outside the data set. Default: the data set's.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Image file for the drawing. Default: in results/drawings/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load_project() -> "Params":
    """Change to the project's folder and return its validated parameters."""
    enter()
    from ditf.config.params import load_params

    return load_params()


def warn_if_stale(params: "Params", task: str | None) -> None:
    """Print to standard error which indexes are out of date.

    Args:
        params: Parameters of the project.
        task: The task that the user named, or None for any task of type retrieval.
    """
    from ditf.project.freshness import stale_tasks

    for name, reason in stale_tasks(params).items():
        if task == name or (task is None and params.tasks[name].type == "retrieval"):
            print(f"warning: {name} is stale: run `dvc repro` ({reason})", file=sys.stderr)


def assignments(option: str, values: list[str] | None, folders: bool = False) -> dict[str, str]:
    """Read values such as "spair=/data/SPair-71k".

    Args:
        option: The option that has them, for errors.
        values: The values.
        folders: Whether each value is a folder. Otherwise it is a folder only if there is one.

    Returns:
        The values by name. Folders are absolute paths.

    Raises:
        UserError: A value is not of the form NAME=VALUE.
    """
    named = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} {text}: not of the form NAME={'FOLDER' if folders else 'SOURCE'}. Correct it.")
        named[name] = str(Path(value).absolute()) if folders or Path(value).is_dir() else value
    return named


def image_name(image: str) -> str:
    """Return the absolute path if `image` is a file, so that it stays valid in the project's folder; else `image`."""
    return str(Path(image).resolve()) if Path(image).is_file() else image


def drawing_file(path: Path | None) -> Path | None:
    """Check the path that the user gave for a drawing, and create its folder.

    Args:
        path: Value of `--out`, relative to the user's current folder.

    Returns:
        The absolute path, or None if `path` is None.

    Raises:
        UserError: The format is not supported, or the folder cannot be created.
    """
    if path is None:
        return None
    if path.suffix not in IMAGE_FORMATS or path.is_dir():
        raise UserError(f"--out {path}: give a file whose name ends with {', '.join(IMAGE_FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot create the folder {path.parent} ({error.strerror})") from None
    return path.resolve()


def imported_records(paths: list[Path]) -> "dict[str, ResultRecord]":
    """Read the files that the user gave for `--import`.

    Args:
        paths: The files, relative to the user's current folder.

    Returns:
        The records by the names under which they are shown: the task, and in parentheses who measured the result. If
        the record does not say, this is the file.

    Raises:
        UserError: A file is not a valid record. There is a line for each wrong field of each file.
    """
    from ditf.report.records import read_record

    records: dict[str, ResultRecord] = {}
    errors = []
    for path in paths:
        try:
            record = read_record(path)
        except UserError as error:
            errors.append(str(error))
            continue
        name = f"{record.name} ({record.source or path.name})"
        records[f"{name} {path}" if name in records else name] = record
    if errors:
        raise UserError("\n".join(errors))
    return records
