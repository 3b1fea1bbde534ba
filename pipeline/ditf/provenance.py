"""What made a result: the store's features, the settings, the versions of the code and the libraries."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import version

LIBRARIES = ("ditf", "numpy", "torch", "faiss-cpu", "zarr", "scikit-image", "opencv-python-headless")


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of those libraries that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


def commit() -> str:
    """The current commit of the project's folder; empty where it is under no version control."""
    try:
        run = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
