"""The stages of `dvc.yaml`: each reads validated parameters, calls the library `ditf`, and writes its outputs."""

import sys
from collections.abc import Callable

from ditf.commands.project import check_entry, guard
from ditf.errors import UserError
from ditf.params import Params, load_params


def run(main: Callable[..., None], section: str | None = None) -> None:
    """Call a stage's `main(params)`, or `main(params, name)` with the name of an entry of a section of the parameters.

    A user's mistake ends it with lines of errors and status 2.
    """
    given, expected = sys.argv[1:], [section] if section else []

    @guard
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
