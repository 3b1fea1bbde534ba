"""Record the versions of the code and the libraries behind a result."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import version

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
