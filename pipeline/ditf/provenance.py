"""What made a result: the store's features, the settings, the versions of the code and the libraries."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ditf.files import bytes_in

if TYPE_CHECKING:
    from ditf.features.store import FeatureStore
    from ditf.tasks import Task

LIBRARIES = ("ditf", "numpy", "torch", "faiss-cpu", "zarr", "scikit-image", "opencv-python-headless")


def provenance(task: "Task", store: "FeatureStore") -> dict[str, Any]:
    """Of a task's predictions, as plain values.

    The store's digest, what made it, its images and bytes; the settings of the predictions, with the channels that were
    discarded; versions; and the commit of the project, with a "+" where files were changed.
    """
    return {
        "store": store.digest,
        "made_by": store.attributes.get("made_by", store.attributes),
        "source": store.attributes.get("source", ""),
        "images": len(store),
        "bytes": bytes_in(store.path),
        "predict": task.predict.model_dump(),
        "discarded": task.predict.discarded(store),
        "versions": versions_of(LIBRARIES),
        "commit": commit(),
    }


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
