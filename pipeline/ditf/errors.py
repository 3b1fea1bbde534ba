"""The exception that users see, and how commands and stages report it."""

import errno
import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class UserError(Exception):
    """A mistake in the input. Its message names the file and the field, and says what to do."""


def exit_on_error(command: Callable[P, None]) -> Callable[P, None]:
    """Print user errors to standard error and exit with status 2.

    An interrupt exits with status 130, and a full disk is reported like a user error.

    Args:
        command: The function to run.

    Returns:
        A function with the same parameters.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            sys.exit(_report(str(error), 2))
        except KeyboardInterrupt:
            sys.exit(_report("interrupted; run the same command again to continue", 130))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            sys.exit(_report(f"{error.filename or 'writing'}: {error.strerror}; free some space and run again", 2))

    return run


def _report(message: str, status: int) -> int:
    print("\n".join(f"error: {line}" for line in message.split("\n")), file=sys.stderr)
    return status
