"""The stages of `dvc.yaml`: each reads validated parameters, calls the library `ditf`, and writes its outputs."""

import sys
from collections.abc import Callable

from ditf.config.params import Params, load_params
from ditf.errors import UserError, exit_on_error
from ditf.project.entries import check_entry


def run(main: Callable[..., None], section: str | None = None) -> None:
    """Call a stage's `main(params)`, or `main(params, name)` with the name of an entry of a section of the parameters.

    A user's mistake ends it with lines of errors and status 2.
    """
    given, expected = sys.argv[1:], [section] if section else []

    @exit_on_error
    def work() -> None:
        if len(given) != len(expected):
            raise UserError(
                f"{len(given)} arguments given; expected: {f'an entry of {section}' if section else 'none'}"
            )
        params = load_params()
        if section:
            check_entry(getattr(params, section), given[0], section)
        main(params, *given)

    work()


__all__ = ["Params", "run"]
