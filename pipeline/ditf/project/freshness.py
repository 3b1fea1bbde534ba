"""Which results are out of date, without running DVC: `dvc.lock` beside `params.yaml` and the versions of classes.

Changed files of a data set are not noticed here, because finding them takes as long as `dvc status`.
"""

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ditf.backbones.source import Model
from ditf.config.params import FILE, Params
from ditf.errors import UserError
from ditf.project.paths import CATALOGS, ENTRIES, FEATURES, RESULTS
from ditf.project.versions import Record, record_path, records, text_of

LOCK = Path("dvc.lock")


def stale_tasks(params: Params) -> dict[str, str]:
    """Find tasks whose results do not belong to the current parameters and code.

    Args:
        params: The current parameters.

    Returns:
        For each task with results that are out of date, the reason, such as "features.spair.timestep changed".
    """
    state = _State.read(params)
    if state is None:
        return {}
    names = [name for name in params.tasks if (RESULTS / name / "metrics.json").exists()]
    return _with_reasons({name: state.reason_of(_stages_of_task(params, name)) for name in names})


def stale_sweeps(params: Params) -> dict[str, str]:
    """Find sweeps whose results do not belong to the current parameters and code.

    Args:
        params: The current parameters.

    Returns:
        For each sweep with results that are out of date, the reason.
    """
    state = _State.read(params)
    if state is None:
        return {}
    names = [name for name in params.sweeps if (RESULTS / "sweeps" / name / "best.json").exists()]
    return _with_reasons({name: state.reason_of(_stages_of_sweep(params, name)) for name in names})


def reason_features_changed(params: Params, name: str) -> str | None:
    """Find out whether a store belongs to the current parameters, images and model.

    Args:
        params: The current parameters.
        name: An entry of `features`.

    Returns:
        What changed, or None if nothing did.
    """
    state = _State.read(params)
    stages: dict[str, list[Path]] = {f"catalog@{params.features[name].dataset}": [], f"features@{name}": []}
    return state.reason_of(stages) if state else "nothing has run"


def differences_from_head() -> dict[str, tuple[Any, Any]]:
    """Find the parameters in `params.yaml` that differ from the last commit.

    Returns:
        For each parameter its value in the commit and its value now; None where it is not set. Empty without git, and
        before the first commit.
    """
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{FILE}"], capture_output=True, check=True)
        documents = [YAML(typ="safe").load(text) for text in (shown.stdout, FILE.read_bytes())]
    except (OSError, subprocess.CalledProcessError, YAMLError):
        return {}
    before, now = (dict(_leaves(document)) for document in documents)
    names = [*now, *(name for name in before if name not in now)]
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


@dataclass(frozen=True)
class _State:
    """What `dvc.lock` says of the last run, and what is now.

    Attributes:
        stages: The stages of `dvc.lock`, by name.
        outputs: The MD5 of every output in `dvc.lock`, by path.
        parameters: The content of `params.yaml`.
        entry_files: The MD5 that each file in `cache/entries` would have now, by path.
    """

    stages: Mapping[str, Any]
    outputs: Mapping[str, str]
    parameters: Any
    entry_files: Mapping[str, str]

    @classmethod
    def read(cls, params: Params) -> "_State | None":
        """Read `dvc.lock` and `params.yaml`; None where nothing has run."""
        try:
            stages = dict(_read_yaml(LOCK)["stages"])
            parameters = _read_yaml(FILE)
            outputs = {output["path"]: output["md5"] for stage in stages.values() for output in stage.get("outs", ())}
        except (OSError, KeyError, TypeError, ValueError, YAMLError):
            return None
        models = {name: _pinned_record(params, name) for name in params.models}
        files = {path.as_posix(): _md5(text_of(record)) for path, record in records(params, models)}
        return cls(stages, outputs, parameters, files)

    def reason_of(self, stages: Mapping[str, list[Path]]) -> str | None:
        """Return why one of these stages is out of date, or None.

        Args:
            stages: For each stage, paths that must be among its dependencies.
        """
        return next((reason for name, paths in stages.items() for reason in self._reasons(name, paths)), None)

    def _reasons(self, name: str, paths: list[Path]) -> Iterator[str]:
        if name not in self.stages:
            yield f"{name} has not run"
            return
        stage = self.stages[name]
        for path, value in stage.get("params", {}).get(FILE.name, {}).items():
            yield from _differences(path, value, _value_at(self.parameters, path))
        dependencies = {dependency["path"]: dependency.get("md5") for dependency in stage.get("deps", ())}
        for path in paths:
            if path.as_posix() not in dependencies:
                yield f"{path} was not what {name} read"
        for path, md5 in dependencies.items():
            if path.startswith(f"{ENTRIES.as_posix()}/") and self.entry_files.get(path) != md5:
                yield f"the code or the model of {Path(path).parent.name}.{Path(path).stem} changed"
            elif self.outputs.get(path, md5) != md5:
                yield f"{path} changed"


def _stages_of_task(params: Params, name: str) -> dict[str, list[Path]]:
    """Return the stages behind the metrics of a task, each with paths that must be among its dependencies."""
    task = params.tasks[name]
    fusion = params.fusions.get(task.features)
    features = [fusion.first.features, fusion.second.features] if fusion else [task.features]
    return {
        f"catalog@{task.dataset}": [],
        **{f"features@{entry}": [] for entry in features},
        **({f"fusion@{task.features}": []} if fusion else {}),
        f"predict@{name}": [FEATURES / task.features, CATALOGS / task.dataset],
        f"score@{name}": [CATALOGS / task.dataset],
    }


def _stages_of_sweep(params: Params, name: str) -> dict[str, list[Path]]:
    """Return the stages behind the results of a sweep, each with paths that must be among its dependencies."""
    dataset = params.sweeps[name].settings.dataset
    return {f"catalog@{dataset}": [], f"sweep@{name}": [CATALOGS / dataset]}


def _pinned_record(params: Params, name: str) -> Record:
    """Return the record of a pinned model if it is still the one that the parameters name."""
    try:
        model = Model.load(record_path("models", name))
    except UserError:
        return {}
    entry = params.models[name]
    same = (model.family, model.source, model.revision) == (entry.type, entry.source, entry.revision)
    loading = {option: getattr(entry, option) for option in ("dtype", "quantize", "tiling")}
    return model.record | loading if same else {}


def _differences(path: str, before: Any, now: Any) -> Iterator[str]:
    """Name the parameters that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(f"{path}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{path} changed"


def _value_at(document: Any, path: str) -> Any:
    """Return the value at a dotted path, such as "tasks.spair.predict"; None where there is none."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings with their dotted paths."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _with_reasons(reasons: Mapping[str, str | None]) -> dict[str, str]:
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _read_yaml(path: Path) -> Any:
    """Read a file as DVC reads it."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
