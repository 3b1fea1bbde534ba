"""Records of the latest run of each stage on this machine: cache/runs/<stage>/<entry>.json, not tracked by DVC."""

import json
import time
from typing import Any

from ditf.files import write_atomically
from ditf.project.paths import RUNS
from ditf.provenance import commit


def record_run(stage: str, name: str, start: float, **values: Any) -> None:
    """Record the duration of a stage.

    Args:
        stage: Name of the stage.
        name: Name of the entry.
        start: Value of `time.monotonic()` when the stage started.
        **values: Further values to record.
    """
    record = {"seconds": round(time.monotonic() - start, 1), "commit": commit(), **values}
    write_atomically(RUNS / stage / f"{name}.json", json.dumps(record).encode() + b"\n")


def recorded_run(stage: str, name: str) -> dict[str, Any]:
    """Return the latest record of a stage; empty if the stage did not run on this machine.

    Args:
        stage: Name of the stage.
        name: Name of the entry.
    """
    try:
        return dict(json.loads((RUNS / stage / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
