"""The project's folder: where things lie in it, and what `params.yaml` and the catalogs say together.

All paths are relative to this folder, in which DVC runs the stages.
"""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from ditf.backbones import Backbone
from ditf.catalog import Catalog
from ditf.errors import UserError
from ditf.files import Hashes
from ditf.images import RGB, read_rgb
from ditf.models import RECORDED, Model
from ditf.params import FeaturesEntry, Params
from ditf.settings import find_type
from ditf.workers import cluster

if TYPE_CHECKING:
    from distributed import Client

    from ditf.features.extractor import Job, Source

P = ParamSpec("P")

CATALOGS, CACHE, RESULTS = Path("catalogs"), Path("cache"), Path("results")
REPORT = Path("report.html")
DRAWINGS = RESULTS / "drawings"  # of searches, matches and comparisons
MODELS, TEXTS, FEATURES, QUERIES = (CACHE / name for name in ("models", "text", "features", "queries"))


def enter() -> None:
    """Go to the project's folder, the one around the current folder; its Python packages can be imported then."""
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "dvc.yaml").exists() and (place / "params.yaml").exists():
            os.chdir(place)
            sys.path.insert(0, str(place))
            return
    raise UserError(f"{here}: no dvc.yaml and params.yaml here or above; run inside a project (see `ditf init`)")


def guard(command: Callable[P, None]) -> Callable[P, None]:
    """The command, but what a user can mend ends it with lines on standard error and an exit status."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            sys.exit(_say(str(error), 2))
        except KeyboardInterrupt:
            sys.exit(_say("interrupted; run again to go on from here", 130))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            sys.exit(_say(f"{error.filename or 'writing'}: {error.strerror}; make space and run again", 2))

    return guarded


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


def check_entry(section: Iterable[str], name: str, kind: str) -> None:
    """Raises `UserError` where a section of the parameters has no entry `name`."""
    if name not in section:
        raise UserError(f"params.yaml: {kind} has no entry {name!r}; it has {', '.join(section) or 'none'}")


def pinned(params: Params, name: str) -> Model:
    """The model that `dvc repro` pinned. Raises `UserError` where `params.yaml`, or the files, say another one."""
    model, requested = Model.load(MODELS / f"{name}.json"), params.models[name]
    if (model.family, model.source, model.revision) != (requested.type, requested.source, requested.revision):
        raise UserError(
            f"params.yaml: models.{name}: {requested.source} is not what was pinned, {model.source}; set it back, "
            "or run `dvc repro`"
        )
    for option in RECORDED:
        if getattr(model.loading, option) != getattr(requested, option):
            raise UserError(
                f"params.yaml: models.{name}: {option} is not what was pinned; set it back, or run `dvc repro`"
            )
    model = replace(model, loading=requested.loading)
    model.check(hashes())
    return model


def workers_of(params: Params, name: str) -> AbstractContextManager["Client | None"]:
    """The workers that run a model, an entry of `models`: on GPUs, where it may use them and there are any."""
    import torch

    model = params.models[name]
    gpus = model.device != "cpu" and torch.cuda.is_available()
    return cluster(params.workers, gpus, imports=find_type(Backbone, model.type).imports)


def hashes() -> Hashes:
    """What is known of the hashes of models' files."""
    return Hashes(staging() / "hashes.json")


def extraction(params: Params, name: str, client: "Client | None" = None) -> tuple[list["Source"], "Job"]:
    """What an entry of `features` asks for: the images of its data set, and how they are extracted."""
    requested = params.features[name]
    return _extraction(params, requested, Catalog(CATALOGS / requested.dataset), TEXTS / name, client)


def sweep_jobs(
    params: Params, name: str, catalog: Catalog, texts: Path, client: "Client | None" = None
) -> dict[int, tuple[list["Source"], "Job"]]:
    """The same for an entry of `sweeps`, by timestep. catalog: of its subset. texts: its encoded prompts."""
    entry = params.sweeps[name]
    return {t: _extraction(params, found, catalog, texts, client) for t, found in entry.features.items()}


def _extraction(
    params: Params, requested: FeaturesEntry, catalog: Catalog, texts: Path, client: "Client | None"
) -> tuple[list["Source"], "Job"]:
    from ditf.features.extractor import Job, Source, resolve_dtype
    from ditf.features.text import dtype_of

    model = params.models[requested.model]
    root = Path(params.datasets[requested.dataset].root)
    columns = ("sha256", "width", "height", "prompt")
    sources = [Source(row["id"], root / row["path"], *(row[c] for c in columns)) for row in catalog.rows("images")]
    job = Job(
        model=pinned(params, requested.model),
        backbone=requested.backbone,
        rule=catalog.resize if requested.rule == "auto" else requested.rule,
        img_size=requested.img_size,
        seed=requested.seed,
        noise=requested.noise,
        encoding=requested.encoding,
        texts=texts,
        dtype=resolve_dtype(model.dtype, model.device, client),
        text_dtype=dtype_of(texts),
        device=model.device,
        batch_size=model.batch_size,
    )
    return sources, job


def image_reader(params: Params, dataset: str) -> Callable[[str], RGB]:
    """Reads an image of a data set by its id, if it is still the one of the catalog."""
    root, rows = Path(params.datasets[dataset].root), Catalog(CATALOGS / dataset).images()

    def read(item: str) -> RGB:
        if item not in rows:
            raise UserError(f"{item}: not an image of the data set {dataset}")
        return read_rgb(root / rows[item]["path"], rows[item]["sha256"])

    return read


def drawing_path(kind: str, *names: str | None) -> Path:
    """Where the drawing of a search, a match or a comparison goes, unless the user says where."""
    return DRAWINGS / ("_".join(re.sub(r"[^\w.-]+", "-", name) for name in (kind, *names) if name)[:200] + ".png")


def _say(message: str, status: int) -> int:
    print("\n".join(f"error: {line}" for line in message.split("\n")), file=sys.stderr)
    return status
