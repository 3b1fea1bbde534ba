"""Record the versions of the code and the libraries behind a result, and the machine."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from ditf.settings import Settings

# Libraries whose versions are recorded with results.
LIBRARIES = ("ditf", "numpy", "torch", "faiss-cpu", "zarr", "scikit-image", "opencv-python-headless")


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of libraries.

    Args:
        libraries: Names of distributions, such as "torch".

    Returns:
        The version of each library that is installed.
    """
    versions = {}
    for name in libraries:
        try:
            versions[name] = version(name)
        except ModuleNotFoundError:
            continue
    return versions


def commit() -> str:
    """Return the current git commit of the working directory.

    Returns:
        12 hexadecimal digits, followed by "+" if tracked files differ from the commit. Empty outside a git repository.
    """
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class Hardware(Settings):
    """A machine without its name.

    Attributes:
        system: Operating system and architecture.
        processor: Model of the processor; empty if the system does not say.
        cores: Number of logical cores that this process may use.
        gpus: Models of the NVIDIA GPUs.
    """

    system: str
    processor: str
    cores: int = Field(ge=1)
    gpus: list[str]


def hardware() -> Hardware:
    """Return this machine. On systems other than Linux, GPUs are not listed."""
    processors = _values(Path("/proc/cpuinfo"), "model name")
    gpus = [
        model
        for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for model in _values(information, "Model")
    ]
    return Hardware(
        system=f"{platform.system()} {platform.machine()}",
        processor=processors[0] if processors else platform.processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=gpus,
    )


def _values(path: Path, key: str) -> list[str]:
    """Return the values of a key in a file with lines such as "key: value"; empty if the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for name, _, value in pairs if name.strip() == key]
