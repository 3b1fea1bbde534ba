"""The published commands, `ditf spair` and `ditf davis`: each writes entries of its own and reproduces them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ditf.config.params import FILE, load_params
from ditf.errors import UserError
from ditf.project.paths import RESULTS, enter

DELIVERED = ".ditf-delivered"  # in a folder of results: what was put there


def reproduce(
    name: str, model: dict[str, Any], dataset: dict[str, Any], features: dict[str, Any], task: dict[str, Any], out: Path
) -> None:
    """Write the entries `name` into params.yaml, bring their task up to date, and copy its results.

    Args:
        name: of all four entries; those of an earlier command of this name are replaced.
        model, dataset, features, task: the entries, but for the names of each other.
        out: folder for the results.

    Raises:
        UserError: a value is wrong, or a stage failed; params.yaml is then as it was.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder")
    entries = {
        "models": model,
        "datasets": dataset,
        "features": {"dataset": name, "model": name, **features},
        "tasks": {**task, "dataset": name, "features": name},
    }
    load_params()
    before = FILE.read_text(encoding="utf-8")
    yaml = YAML()
    yaml.preserve_quotes = True
    document = yaml.load(before)
    for section, value in entries.items():
        document[section][name] = value
    with FILE.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
    try:
        load_params()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        targets = [f"score@{name}", f"draw@{name}"]
        command = [sys.executable, "-m", "dvc", "repro", *targets]
        if subprocess.run(command, env=os.environ | {"PATH": path}).returncode:
            raise UserError("a stage failed, as reported above; what is finished is kept: run the same command again")
    except BaseException:
        FILE.write_text(before, encoding="utf-8")
        raise
    _deliver(RESULTS / name, out)


def folder(flag: str, path: Path) -> str:
    """How params.yaml names a user's folder: relative within the project, to which this goes, else absolute."""
    if not path.is_dir():
        raise UserError(f"{flag}: {path} is not a folder")
    found = path.resolve()
    enter()
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def _deliver(results: Path, out: Path) -> None:
    """Copy the results of a task into a folder of the user's, in place of what an earlier command put there."""
    out.mkdir(parents=True, exist_ok=True)
    record = out / DELIVERED
    if record.exists():
        for name in record.read_text(encoding="utf-8").split("\n"):
            if name and (out / name).resolve().is_relative_to(out.resolve()):
                (out / name).unlink(missing_ok=True)
    files = sorted(path for path in results.rglob("*") if path.is_file() and path.name != ".gitignore")
    for path in files:
        target = out / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    record.write_text("\n".join(path.relative_to(results).as_posix() for path in files) + "\n", encoding="utf-8")
