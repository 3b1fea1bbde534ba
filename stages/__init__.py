"""The stages of `dvc.yaml`: each reads validated parameters, calls `pipeline`, and writes its outputs.

All paths are relative to the project's folder, in which DVC runs them.
"""

import errno
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import Params, load_params

CATALOGS, CACHE, RESULTS = Path("catalogs"), Path("cache"), Path("results")
STAGING = CACHE / "staging"
MODEL = CACHE / "model.json"
HUB_FLUX = "black-forest-labs/FLUX.1-dev"


def run(main: Callable[..., None]) -> None:
    """Call a stage's `main(params, *arguments)`; a user's mistake ends it with one line and status 2."""
    arguments, wanted = sys.argv[1:], list(inspect.signature(main).parameters)[1:]

    def work() -> None:
        if len(arguments) != len(wanted):
            raise UserError(f"{len(arguments)} arguments given; wanted: {', '.join(wanted) or 'none'}")
        main(load_params(), *arguments)

    guard(work)


def guard(work: Callable[[], None]) -> None:
    """Call `work`; turn what a user can mend into a line on standard error and an exit status."""
    try:
        work()
    except UserError as error:
        sys.exit(_say(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; run again to go on from here", 130))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.exit(_say(f"{error.filename or 'writing'}: {error.strerror}; make space and run again", 2))


def discarded(dataset: str) -> list[int]:
    """The channels that the stage `channels` chose to discard."""
    choice = json.loads((RESULTS / dataset / "channels" / "channels.json").read_text(encoding="utf-8"))
    return [int(channel) for channel in choice["discarded"]]


def _say(message: str, status: int) -> int:
    print("\n".join(f"error: {line}" for line in message.split("\n")), file=sys.stderr)
    return status


__all__ = ["CACHE", "CATALOGS", "HUB_FLUX", "MODEL", "RESULTS", "STAGING", "Params", "discarded", "guard", "run"]
