"""Checks of a project and its machine for `ditf doctor`. None of them loads a model or reads an image."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ditf.backbones.source import MINIATURE, TINY, ModelSettings, is_hub
from ditf.backbones.weights import missing_shards, weight_problems
from ditf.config.params import Params, load_params
from ditf.datasets.base import Dataset
from ditf.errors import UserError, describe_os_error
from ditf.project.paths import CACHE, FEATURES, dvc_objects
from ditf.project.plan import costs, gpu_bytes
from ditf.project.speed import has_gpu

PACKAGE = "ditf"
OWN_DATA = 0.5  # a data set that has less than this share of the release is not an incomplete copy of it
SLOW_FLOPS = 1e15  # an extraction with more takes hours on a CPU


@dataclass(frozen=True)
class Finding:
    """A result of a check.

    Attributes:
        level: "ok", "warning" for what still runs, or "error".
        text: One line: where, what, and for a problem what to do.
    """

    level: Literal["ok", "warning", "error"]
    text: str


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that has a path."""
    return shutil.disk_usage(path).free


def diagnose(free: Callable[[Path], int] = free_bytes) -> Iterator[Finding]:
    """Check the project in the current folder.

    Args:
        free: Function that returns the free bytes of the file system that has a path.

    Yields:
        The findings.
    """
    yield from _guarded("versions", check_versions)
    try:
        params = load_params()
    except UserError as error:
        for line in str(error).split("\n"):
            yield Finding("error", line)
        params = None
    if params:
        count = len(params.models) + len(params.datasets) + len(params.features) + len(params.tasks)
        yield Finding("ok", f"params.yaml: {count} entries")
        for name, dataset in params.datasets.items():
            yield from _guarded(f"datasets.{name}", functools.partial(check_dataset, name, dataset))
        for name, model in params.models.items():
            yield from _guarded(f"models.{name}", functools.partial(check_model, name, model))
        yield from _guarded("GPU", functools.partial(check_gpu, params))
        yield from _guarded("disk", functools.partial(check_disk, params, free))
    yield from _guarded("DVC's cache", check_cache)


def check_versions() -> Iterator[Finding]:
    """Compare the installed libraries with the ranges that this package requires."""
    fields = metadata.metadata(PACKAGE)
    python = fields["Requires-Python"] if "Requires-Python" in fields else ""  # noqa: SIM401  # has no method get
    version = ".".join(map(str, sys.version_info[:3]))
    if python and not SpecifierSet(python).contains(version):
        yield Finding("error", f"Python {version}: {PACKAGE} requires Python {python}. Install that.")
    count, wrong = 0, 0
    for text in metadata.requires(PACKAGE) or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        asked = f"{requirement.name}{requirement.specifier}"
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong += 1
            yield Finding("error", f"{requirement.name}: not installed. Run `pip install '{asked}'`.")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong += 1
            text = f"{requirement.name} {installed}: {PACKAGE} requires {requirement.specifier}"
            yield Finding("error", f"{text}. Run `pip install '{asked}'`.")
    installed_faiss = [name for name in ("faiss-cpu", "faiss-gpu-cu12", "faiss-gpu", "faiss") if _is_installed(name)]
    if not installed_faiss:
        yield Finding("error", f"faiss: not installed. Run `pip install '{PACKAGE}[cpu]'`, or [gpu] for a GPU.")
    elif not wrong:
        yield Finding("ok", f"versions: Python {version}, {installed_faiss[0]} and {count} libraries fit")


def check_dataset(name: str, dataset: Dataset) -> Iterator[Finding]:
    """Compare the counts of a data set with those of its official release."""
    where, root = f"datasets.{name}", Path(dataset.root)
    if not root.is_dir():
        if root.parts[:2] == ("data", "sample"):
            yield Finding("ok", f"{where}: sample data, which `dvc repro` makes")
        else:
            yield Finding("error", f"{where}: {root} is not a folder. Unpack the data there, or correct `root`.")
        return
    expected, counts = dataset.release.counts if dataset.release else {}, dataset.counts()
    if not expected:
        yield Finding("ok", f"{where}: {root} is there")
        return
    text = ", ".join(f"{counts[key]:,} {key}" for key in expected)
    official = ", ".join(f"{count:,} {key}" for key, count in expected.items())
    if counts == dict(expected):
        yield Finding("ok", f"{where}: {text}, as in the official release")
    elif not all(counts.values()):
        yield Finding(
            "error", f"{where}: {root} has {text}; the release has {official}. Unpack it again, or correct `root`."
        )
    elif any(counts[key] < OWN_DATA * count for key, count in expected.items()):
        yield Finding("ok", f"{where}: {text}, which is not the official release with {official}")
    else:
        advice = "Unpack it again; figures are not comparable with published ones."
        yield Finding("error", f"{where}: {root} has {text}; the release has {official}. {advice}")


def check_model(name: str, model: ModelSettings) -> Iterator[Finding]:
    """Check that the weights of a model are there and complete, without downloading any."""
    where, source = f"models.{name}", model.source
    if model.gguf and not Path(model.gguf).is_file():
        yield Finding("error", f"{where}: gguf: {model.gguf} is not a file. Give the path of a GGUF file.")
    if source == MINIATURE or source.startswith(TINY):
        yield Finding("ok", f"{where}: {source} needs no download")
        return
    try:
        on_hub = is_hub(source)
    except UserError as error:
        yield Finding("error", f"{where}: {error}")
        return
    if not on_hub:
        folder = Path(source)
        problems = list(weight_problems(folder, model.backbone.components(folder)))
        yield from (Finding("error", f"{where}: {problem}") for problem in problems)
        if not problems:
            yield Finding("ok", f"{where}: the weights in {folder} are complete")
        return
    from huggingface_hub import snapshot_download  # here, because few commands need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    published = model.backbone.published.get(source)
    size = f"about {2 * (published.parameters + published.text):.3g} GB in 16 bits" if published else "the model"
    try:
        folder = Path(snapshot_download(source, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError):
        advice = "If it is gated, accept its licence there and run `hf auth login`."
        yield Finding("warning", f"{where}: {source} is not in the Hub's cache. `dvc repro` downloads {size}. {advice}")
        return
    present = [part for part in model.backbone.components(folder) if (folder / part).is_dir()]
    problems = list(weight_problems(folder, present, complete=False))
    yield from (Finding("error", f"{where}: {problem}") for problem in problems)
    if problems:
        return
    missing = [shard for part in present for shard in missing_shards(folder / part)]
    if missing or not any(folder.rglob("*.safetensors")):
        text = f"{len(missing)} files of its weights are" if missing else "its weights are"
        yield Finding("warning", f"{where}: {text} not in the Hub's cache. `dvc repro` downloads those that it needs.")
    else:
        yield Finding("ok", f"{where}: the weights in the Hub's cache are complete")


def check_gpu(params: Params) -> Iterator[Finding]:
    """Compare the memory of the GPU with the plan."""
    gpus = _gpus()
    for name, gigabytes in gpus.items():
        yield Finding("ok", f"GPU: {name} with {gigabytes:.0f} GB")
    for name, cost in costs(params).items():
        sweep = params.sweeps.get(name.removeprefix("sweep "))
        entry = params.features.get(name) or next(iter(sweep.features.values() if sweep else ()))
        where = f"features.{name}" if name in params.features else name
        model = params.models[entry.model]
        if model.device == "cuda" and not gpus:
            yield Finding("error", f"models.{entry.model}: device: no NVIDIA GPU was found. Set device to auto or cpu.")
        elif model.device != "cpu" and gpus:
            option = "offload: blocks" if model.offload != "none" else ""
            option = f"quantize: {model.quantize}" if model.quantize != "none" else option
            needed, largest = gpu_bytes(cost, option) / 1e9, max(gpus.values())
            if needed > largest:
                text = f"needs about {needed:.1f} GB on the GPU, which has {largest:.1f} GB"
                advice = f"Set offload or quantize in models.{entry.model}; `ditf plan` shows what suffices."
                yield Finding("warning", f"{where}: {text}. {advice}")
        elif cost.flops > SLOW_FLOPS:
            text = f"{where}: {cost.flops / 1e15:,.1f} PFLOP on a CPU"
            yield Finding("warning", f"{text}. `ditf plan` estimates the time; use a machine with an NVIDIA GPU.")


def check_disk(params: Params, free: Callable[[Path], int]) -> Iterator[Finding]:
    """Compare the free space with what the plan still has to write."""
    needed = 0.0
    for name, cost in costs(params).items():
        if not (FEATURES / name).exists():
            indexed = any(task.type == "retrieval" and task.features == name for task in params.tasks.values())
            needed += cost.feature_bytes + (cost.index_bytes if indexed else 0)
    place = _existing(dvc_objects())
    available = free(place)
    text = f"{needed / 1e9:,.1f} GB are needed for features, and {available / 1e9:,.1f} GB are free at {place}"
    if needed > available:
        advice = "Free some space, remove entries, or set `encoding: int8`, which halves the features."
        yield Finding("error", f"disk: {text}. {advice}")
    else:
        yield Finding("ok", f"disk: {text}")


def check_cache() -> Iterator[Finding]:
    """Check that DVC's cache can be written, and that hard links lead there from the project."""
    objects = dvc_objects()
    place, problems = _existing(objects), 0
    for folder in (place, _existing(CACHE)):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            problems += 1
            yield Finding("error", f"DVC's cache: {describe_os_error(error, folder)}")
    if place.stat().st_dev != _existing(CACHE).stat().st_dev:
        problems += 1
        advice = "Choose a folder on the project's file system with `dvc cache dir --local FOLDER`."
        text = f"DVC's cache: {objects} is on another file system than the project, so that outputs are stored twice"
        yield Finding("warning", f"{text}. {advice}")
    if not problems:
        yield Finding("ok", f"DVC's cache: {objects} can be written, and is on the project's file system")


def _guarded(where: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check. An exception is a finding, too, because a broken project may raise any."""
    try:
        yield from check()
    except UserError as error:
        yield from (Finding("error", line) for line in str(error).split("\n"))
    except Exception as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else " ".join(str(error).split())
        yield Finding("error", f"{where}: cannot be checked ({type(error).__name__}: {reason}). Repair what it names.")


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def _gpus() -> dict[str, float]:
    """Return the memory in GB of each visible NVIDIA GPU by its name, without importing torch."""
    if not has_gpu() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return {}
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = [line.rsplit(", ", 1) for line in lines if ", " in line]
    return {name: float(mebibytes) * 2**20 / 1e9 for name, mebibytes in pairs if mebibytes.strip().isdecimal()}
