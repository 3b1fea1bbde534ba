"""Stages of `dvc.yaml`. Each reads validated parameters, calls the library `ditf`, and writes its outputs."""

import sys
from collections.abc import Callable

from ditf.config.params import Params, load_params
from ditf.errors import UserError, exit_on_error
from ditf.project.entries import check_entry
from ditf.project.runs import record_run


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


__all__ = ["Params", "record_run", "run"]
