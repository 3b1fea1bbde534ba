"""The exception that users see, and how commands and stages report it."""

import difflib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")
MOST_CHOICES = 12  # listed in an error message

# What to do about an error of the operating system.
REMEDIES = {
    errno.ENOSPC: "Free some space and run again.",
    errno.EDQUOT: "Free some space or raise your quota, and run again.",
    errno.EFBIG: "Use a file system that allows larger files.",
    errno.EROFS: "Use a folder on a file system that can be written.",
    errno.EACCES: "Change its permissions, or use another folder.",
    errno.EPERM: "Change its permissions, or use another folder.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ENOTDIR: "A file is in the place of a folder. Rename it or use another folder.",
    errno.EISDIR: "A folder is in the place of a file. Rename it or use another name.",
}


class UserError(Exception):
    """A mistake in the input. Its message names the file and the field, and says what to do."""


class NotFoundError(UserError):
    """A file, or an item that the user named, does not exist."""


def suggest(name: object, choices: Iterable[str]) -> str:
    """Return what to do about an unknown name.

    Args:
        name: The name that was given.
        choices: The names that exist.

    Returns:
        "Did you mean spair?" if a choice is similar, otherwise a sentence that lists the choices, 12 at most.
    """
    known = list(choices)
    if close := difflib.get_close_matches(str(name), known, 1):
        return f"Did you mean {close[0]}?"
    if not known:
        return "There is none."
    return f"Use {', '.join(known[:MOST_CHOICES])}{', ...' if len(known) > MOST_CHOICES else ''}."


def describe_os_error(error: OSError, path: str | Path | None = None) -> str:
    """Return one line about an error of the operating system.

    Args:
        error: The error.
        path: The file or folder that the line names. By default, the one that the error names.

    Returns:
        The path, the reason and, for common reasons, what to do.
    """
    place = path or error.filename
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if place and error.errno and not error.strerror:
        reason = os.strerror(error.errno)  # pyarrow's own text repeats the path
    place = place or "a file could not be read or written"
    place = os.fsdecode(place) if isinstance(place, bytes) else str(place)
    return f"{place}: {reason}. {REMEDIES.get(error.errno or 0, '')}".rstrip()


def exit_on_error(command: Callable[P, None]) -> Callable[P, None]:
    """Print user errors to standard error and exit with status 2.

    An error of the operating system, such as a full disk, is reported in one line like a user error. An interrupt
    exits with status 130.

    Args:
        command: The function to run.

    Returns:
        A function with the same parameters.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except UserError as error:
            sys.exit(_report(str(error), 2))
        except KeyboardInterrupt:
            sys.exit(_report("interrupted. Run the same command again to continue.", 130))
        except BrokenPipeError:
            # The reader of the output, such as `head`, has ended. Python would complain when it closes the output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            if error.errno is None:  # raised by a library, not by the operating system
                raise
            sys.exit(_report(describe_os_error(error), 2))

    return run


def _report(message: str, status: int) -> int:
    """Print a message to standard error, and return the exit status."""
    print("\n".join(f"error: {line}" for line in message.split("\n")), file=sys.stderr)
    return status
