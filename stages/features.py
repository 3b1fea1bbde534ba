"""FLUX over every image of a data set, once -> cache/features/<dataset>, a Zarr store."""

import shutil
from pathlib import Path

import torch

from pipeline.catalog import read_table
from pipeline.device import choose
from pipeline.extraction import Job, Settings, Source, make_store
from pipeline.images import Rule
from pipeline.model import Model
from pipeline.staging import exclusive, fingerprint, publish
from pipeline.store import VERSION, FeatureStore
from pipeline.writer import is_complete
from stages import CACHE, CATALOGS, MODEL, STAGING, Params, run

RULES: dict[str, Rule] = {"spair": "longer", "davis": "shorter", "folder": "longer"}


def main(params: Params, dataset: str) -> None:
    sources, job = wanted(params, dataset)
    home = STAGING / "features" / dataset
    items = [source.item(job.settings) for source in sources]
    made_by = fingerprint({"version": VERSION, **job.facts})
    folder = home / made_by / fingerprint({"items": [[item.id, item.key] for item in items]})
    with exclusive(home):
        others = [f for f in home.glob("*/*") if is_complete(f) and f != folder]
        earlier = [FeatureStore(f / "store.zarr") for f in others if f.parent == folder.parent]
        publish(make_store(folder, sources, job, params.dask.engine, earlier), CACHE / "features" / dataset)
        for other in others:  # they live on in DVC's cache
            shutil.rmtree(other)
    if job.device == "cuda" and params.dask.engine == "none":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def wanted(params: Params, dataset: str) -> tuple[list[Source], Job]:
    """What the parameters ask for: the images of a data set, and how they are extracted."""
    section, model = params.dataset(dataset), Model.load(MODEL, params.model.source)
    device, dtype = choose(params.model.device, params.model.dtype)
    settings = Settings(
        timestep=section.timestep,
        blocks=tuple(sorted(section.blocks)),
        ensemble_size=section.ensemble_size,
        guidance=section.guidance,
        rule=RULES[dataset],
        img_size=section.img_size,
        seed=params.seed,
    )
    sources = [
        Source(row["id"], Path(section.root) / row["path"], *(row[k] for k in ("sha256", "width", "height", "prompt")))
        for row in read_table(CATALOGS / dataset, "images")
    ]
    texts = CACHE / "text" / dataset
    return sources, Job(model, settings, section.encoding, dtype, device, params.model.batch_size, texts)


if __name__ == "__main__":
    run(main)
