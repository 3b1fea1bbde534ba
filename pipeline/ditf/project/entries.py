"""What entries of `params.yaml` refer to: pinned models, images, extraction jobs and workers."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditf.backbones.source import RECORDED, Model
from ditf.config.params import Params
from ditf.config.schema import FeaturesEntry
from ditf.data.catalog import Catalog
from ditf.data.images import RGB, read_rgb
from ditf.errors import UserError, suggest
from ditf.features.reader import FeatureReader
from ditf.files import Hashes
from ditf.project.paths import CATALOGS, MODELS, TEXTS, staging
from ditf.workers import cluster

if TYPE_CHECKING:
    from distributed import Client

    from ditf.features.job import ExtractionJob, ImageSource


def check_entry(section: Iterable[str], name: str, kind: str) -> None:
    """Raise `UserError` if a section of the parameters has no entry `name`."""
    if name not in section:
        raise UserError(f"params.yaml: {kind} has no entry {name!r}. {suggest(name, section)}")


def pinned(params: Params, name: str) -> Model:
    """Return the model that `dvc repro` pinned.

    Args:
        params: All parameters.
        name: An entry of `models`.

    Raises:
        UserError: The parameters name another model, or its files changed.
    """
    model, requested = Model.load(MODELS / f"{name}.json"), params.models[name]
    if (model.family, model.source, model.revision) != (requested.type, requested.source, requested.revision):
        raise UserError(
            f"params.yaml: models.{name}: {requested.source} is not what was pinned, {model.source}. Set it back, "
            "or run `dvc repro`."
        )
    for option in RECORDED:
        if getattr(model.loading, option) != getattr(requested, option):
            raise UserError(
                f"params.yaml: models.{name}: {option} is not what was pinned. Set it back, or run `dvc repro`."
            )
    model = replace(model, loading=requested.loading)
    model.check(hashes())
    return model


def workers_of(params: Params, name: str) -> AbstractContextManager["Client | None"]:
    """Start the workers that run a model: on GPUs if the model may use them and there are any.

    Args:
        params: All parameters.
        name: An entry of `models`.
    """
    import torch  # here, because most commands need no model

    model = params.models[name]
    gpus = model.device != "cpu" and torch.cuda.is_available()
    return cluster(params.workers, gpus)


def hashes() -> Hashes:
    """Return the known hashes of model files."""
    return Hashes(staging() / "hashes.json")


def extraction(
    params: Params, name: str, client: "Client | None" = None
) -> tuple[list["ImageSource"], "ExtractionJob"]:
    """Return the images of an entry of `features`, and how they are extracted.

    Args:
        params: All parameters.
        name: The entry.
        client: Client of the workers that extract; None for this process.
    """
    entry = params.features[name]
    return _extraction(params, entry, Catalog(CATALOGS / entry.dataset), TEXTS / name, client)


def sweep_jobs(
    params: Params, name: str, catalog: Catalog, texts: Path, client: "Client | None" = None
) -> dict[int, tuple[list["ImageSource"], "ExtractionJob"]]:
    """Return the images of an entry of `sweeps`, and how they are extracted, by timestep.

    Args:
        params: All parameters.
        name: The entry.
        catalog: The catalog of the sweep's subset.
        texts: The folder of its encoded prompts.
        client: Client of the workers that extract; None for this process.
    """
    features = params.sweeps[name].features
    return {timestep: _extraction(params, entry, catalog, texts, client) for timestep, entry in features.items()}


def _extraction(
    params: Params, entry: FeaturesEntry, catalog: Catalog, texts: Path, client: "Client | None"
) -> tuple[list["ImageSource"], "ExtractionJob"]:
    # Imported here, because the commands that import this module do without torch.
    from ditf.features.job import ExtractionJob, ImageSource, resolve_dtype
    from ditf.features.text import dtype_of

    model = params.models[entry.model]
    root = Path(params.datasets[entry.dataset].root)
    columns = ("sha256", "pixels_sha256", "width", "height", "prompt")
    sources = [ImageSource(row["id"], root / row["path"], *(row[c] for c in columns)) for row in catalog.rows("images")]
    job = ExtractionJob(
        model=pinned(params, entry.model),
        backbone=entry.backbone,
        rule=catalog.resize if entry.rule == "auto" else entry.rule,
        img_size=entry.img_size,
        seed=entry.seed,
        noise=entry.noise,
        encoding=entry.encoding,
        texts=texts,
        dtype=resolve_dtype(model.dtype, model.device, client),
        text_dtype=dtype_of(texts),
        device=model.device,
        batch_size=model.batch_size,
    )
    return sources, job


def image_reader(params: Params, dataset: str) -> Callable[[str], RGB]:
    """Return a function that reads an image of a data set by its id.

    The function raises `UserError` if the file changed since the catalog was made.
    """
    root, rows = Path(params.datasets[dataset].root), Catalog(CATALOGS / dataset).images()

    def read(item: str) -> RGB:
        if item not in rows:
            raise UserError(f"{item}: not an image of the data set {dataset}")
        return read_rgb(root / rows[item]["path"], rows[item]["sha256"])

    return read


def require_same(store: FeatureReader, extraction_config: dict[str, Any]) -> None:
    """Check that a store was extracted with the current configuration.

    Args:
        store: The store.
        extraction_config: Configuration from the parameters.

    Raises:
        UserError: A setting differs.
    """
    stored = store.attributes["extraction_config"]
    for name in sorted(stored.keys() | extraction_config.keys()):
        if stored.get(name) != extraction_config.get(name):
            raise UserError(
                f"{store.path}: extracted with {name} {stored.get(name)}, but params.yaml now has "
                f"{extraction_config.get(name)}. Set it back, or run `dvc repro`."
            )
