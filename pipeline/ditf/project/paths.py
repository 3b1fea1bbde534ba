"""Where things are in a project folder. All paths are relative to it; DVC runs the stages in it."""

import os
import re
import sys
from pathlib import Path

from ditf.errors import UserError

CATALOGS, CACHE, RESULTS = Path("catalogs"), Path("cache"), Path("results")
REPORT = Path("report.html")
PUBLISHED = Path("published.csv")  # figures that the user adds to the published ones
DRAWINGS = RESULTS / "drawings"  # of searches, matches and comparisons
ENTRIES, TEXTS, FEATURES, QUERIES = (CACHE / name for name in ("entries", "text", "features", "queries"))
MODELS = ENTRIES / "models"
RUNS = CACHE / "runs"  # run times, which DVC does not track because they differ from run to run


def enter() -> None:
    """Change to the project's folder, which is the current folder or one above it.

    Python packages in the project's folder can be imported afterwards.

    Raises:
        UserError: There is no project.
    """
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "dvc.yaml").exists() and (place / "params.yaml").exists():
            os.chdir(place)
            sys.path.insert(0, str(place))
            return
    raise UserError(f"{here}: no dvc.yaml and params.yaml here or above. Run inside a project; `ditf init` makes one.")


def dvc_objects() -> Path:
    """Return the folder of DVC's cached objects, which experiments in temporary folders share."""
    from dvc.config import Config  # here, because it takes a while and few commands need it

    configured = Config(".dvc", validate=False)["cache"].get("dir")
    return (Path(configured) if configured else Path(".dvc/cache").resolve()) / "files/md5"


def staging() -> Path:
    """Return the folder of work in progress: `DITF_STAGING` in the environment, or a folder in DVC's cache.

    There it is on the same file system as DVC's objects, and experiments in temporary folders share it.
    """
    folder = os.environ.get("DITF_STAGING")
    return Path(folder) if folder else dvc_objects().parents[1] / "ditf"


def drawing_path(kind: str, *names: str | None) -> Path:
    """Return the default file for the drawing of a search, a match or a comparison."""
    return DRAWINGS / ("_".join(re.sub(r"[^\w.-]+", "-", name) for name in (kind, *names) if name)[:200] + ".png")
