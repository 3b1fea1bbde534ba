"""What the entries of `params.yaml` refer to: pinned models, images, extraction jobs and workers."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ditf.backbones.source import RECORDED, Model
from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry
from ditf.data.catalog import Catalog
from ditf.data.images import RGB, read_rgb
from ditf.errors import UserError, suggest
from ditf.files import Hashes
from ditf.project.paths import CATALOGS, MODELS, TEXTS, staging
from ditf.workers import cluster

if TYPE_CHECKING:
    from distributed import Client

    from ditf.features.extractor import ExtractionJob, ImageSource


def check_entry(section: Iterable[str], name: str, kind: str) -> None:
    """Raise `UserError` if a section of the parameters has no entry `name`."""
    if name not in section:
        raise UserError(f"params.yaml: {kind} has no entry {name!r}. {suggest(name, section)}")


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
    return cluster(params.workers, gpus)


def hashes() -> Hashes:
    """What is known of the hashes of models' files."""
    return Hashes(staging() / "hashes.json")


def extraction(
    params: Params, name: str, client: "Client | None" = None
) -> tuple[list["ImageSource"], "ExtractionJob"]:
    """What an entry of `features` asks for: the images of its data set, and how they are extracted."""
    requested = params.features[name]
    return _extraction(params, requested, Catalog(CATALOGS / requested.dataset), TEXTS / name, client)


def sweep_jobs(
    params: Params, name: str, catalog: Catalog, texts: Path, client: "Client | None" = None
) -> dict[int, tuple[list["ImageSource"], "ExtractionJob"]]:
    """The same for an entry of `sweeps`, by timestep. catalog: of its subset. texts: its encoded prompts."""
    entry = params.sweeps[name]
    return {t: _extraction(params, found, catalog, texts, client) for t, found in entry.features.items()}


def _extraction(
    params: Params, requested: FeaturesEntry, catalog: Catalog, texts: Path, client: "Client | None"
) -> tuple[list["ImageSource"], "ExtractionJob"]:
    from ditf.features.extractor import ExtractionJob, ImageSource, resolve_dtype
    from ditf.features.text import dtype_of

    model = params.models[requested.model]
    root = Path(params.datasets[requested.dataset].root)
    columns = ("sha256", "pixels_sha256", "width", "height", "prompt")
    sources = [ImageSource(row["id"], root / row["path"], *(row[c] for c in columns)) for row in catalog.rows("images")]
    job = ExtractionJob(
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
