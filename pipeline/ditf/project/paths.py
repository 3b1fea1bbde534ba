"""Where things are in a project folder. All paths are relative to it, and DVC runs the stages in it."""

import os
import re
import sys
from pathlib import Path

from ditf.errors import UserError

CATALOGS, CACHE, RESULTS = Path("catalogs"), Path("cache"), Path("results")
REPORT = Path("report.html")
DRAWINGS = RESULTS / "drawings"  # of searches, matches and comparisons
ENTRIES, TEXTS, FEATURES, QUERIES = (CACHE / name for name in ("entries", "text", "features", "queries"))
MODELS = ENTRIES / "models"
RUNS = CACHE / "runs"  # run times, which DVC does not track because they differ from run to run


def enter() -> None:
    """Go to the project's folder, the one around the current folder; its Python packages can be imported then."""
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "dvc.yaml").exists() and (place / "params.yaml").exists():
            os.chdir(place)
            sys.path.insert(0, str(place))
            return
    raise UserError(f"{here}: no dvc.yaml and params.yaml here or above; run inside a project (see `ditf init`)")


def dvc_objects() -> Path:
    """The folder of DVC's cached objects, which experiments in temporary folders share."""
    from dvc.config import Config

    configured = Config(".dvc", validate=False)["cache"].get("dir")
    return (Path(configured) if configured else Path(".dvc/cache").resolve()) / "files/md5"


def staging() -> Path:
    """Where work in progress is kept: the environment variable DITF_STAGING, or a folder in DVC's cache.

    So it is on the same file system as DVC's objects, and experiments in temporary folders share it.
    """
    given = os.environ.get("DITF_STAGING")
    return Path(given) if given else dvc_objects().parents[1] / "ditf"


def drawing_path(kind: str, *names: str | None) -> Path:
    """Where the drawing of a search, a match or a comparison goes, unless the user says where."""
    return DRAWINGS / ("_".join(re.sub(r"[^\w.-]+", "-", name) for name in (kind, *names) if name)[:200] + ".png")
