"""Staging: stores in progress, and earlier stores whose items need not be computed again.

DVC removes the output of a stage before it runs the stage, so extraction works in a folder of staging, which an
interruption leaves as it is. The folder is named by the fingerprint of what it computes. Its files become the output
by hard links, so a finished store takes no space of its own where DVC's cache is on the same file system.
"""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ditf.errors import UserError
from ditf.files import exclusive, publish, warning_if_unwritable
from ditf.project.paths import FEATURES, staging

KEPT = 3  # earlier stores of an entry that stay
STORE = "store.zarr"
METADATA = "zarr.json"


def home_of(name: str) -> Path:
    """Return the folder in staging of an entry of `features`."""
    return staging() / "features" / name


def keep_outputs(names: Iterable[str]) -> None:
    """Link finished stores into staging if they are not there, as after `dvc pull` or `dvc checkout`.

    Extraction can then copy their items, although DVC removes the stores first.

    Args:
        names: Entries of `features`.
    """
    for name in names:
        output, home = FEATURES / name, home_of(name)
        with suppress(OSError):  # there is no store, or it is damaged
            metadata = (output / METADATA).read_bytes()
            if any(path.read_bytes() == metadata for path in home.glob(f"*/{STORE}/{METADATA}")):
                continue
            with warning_if_unwritable(home), exclusive(home / "output"):
                publish(output, home / "output" / STORE)


def reusable_stores(home: Path, current: Path) -> list[Path]:
    """Return the stores in staging, apart from the current one."""
    return [path for path in sorted(home.glob(f"*/{STORE}")) if path.parent != current]


def tidy(home: Path, current: Path) -> None:
    """Remove old stores of an entry.

    Args:
        home: The entry's folder in staging.
        current: The folder in it that stays, besides the newest few others.
    """
    others = [path for path in home.iterdir() if path.is_dir() and path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in others[KEPT:]:
        with suppress(UserError), exclusive(folder):  # a folder in which another process works stays
            shutil.rmtree(folder)
