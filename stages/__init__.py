"""The stages of `dvc.yaml`: each reads validated parameters, calls the library `ditf`, and writes its outputs."""

import inspect
import sys
from collections.abc import Callable

from ditf.commands.project import guard
from ditf.errors import UserError
from ditf.params import Params, load_params


def run(main: Callable[..., None]) -> None:
    """Call a stage's `main(params, *arguments)`; a user's mistake ends it with lines of errors and status 2."""
    given, expected = sys.argv[1:], list(inspect.signature(main).parameters)[1:]

    def work() -> None:
        if len(given) != len(expected):
            raise UserError(f"{len(given)} arguments given; expected: {', '.join(expected) or 'none'}")
        main(load_params(), *given)

    guard(work)


__all__ = ["Params", "run"]
