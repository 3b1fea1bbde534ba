"""Stages of `dvc.yaml`. Each reads validated parameters, calls the library `ditf`, and writes its outputs."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ditf.config.params import Params, load_params
from ditf.errors import UserError, exit_on_error
from ditf.files import write_atomically
from ditf.project.entries import check_entry
from ditf.project.paths import RUNS
from ditf.provenance import commit


def run(main: Callable[..., None], section: str | None = None) -> None:
    """Call a stage's `main` with the parameters, and exit with status 2 after a user error.

    Args:
        main: Called as `main(params)`, or as `main(params, name)` if the stage runs once per entry.
        section: Section of the parameters. The first argument on the command line names one of its entries.
    """
    arguments = sys.argv[1:]
    expected = 1 if section else 0

    @exit_on_error
    def call_main() -> None:
        if len(arguments) != expected:
            raise UserError(
                f"{len(arguments)} arguments given; expected: {f'an entry of {section}' if section else 'none'}"
            )
        params = load_params()
        if section:
            check_entry(getattr(params, section), arguments[0], section)
        main(params, *arguments)

    call_main()


def record_run(stage: str, name: str, start: float, **values: Any) -> None:
    """Record the duration of a stage in cache/runs/<stage>/<name>.json, which DVC does not track.

    Args:
        stage: Name of the stage.
        name: Name of the entry.
        start: Value of `time.monotonic()` when the stage started.
        **values: Further values to record.
    """
    record = {"seconds": round(time.monotonic() - start, 1), "commit": commit(), **values}
    write_atomically(RUNS / stage / f"{name}.json", json.dumps(record).encode() + b"\n")


__all__ = ["Params", "record_run", "run"]
