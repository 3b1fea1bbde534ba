"""FLUX over every image of a data set, once -> cache/features/<dataset>, a Zarr store."""

import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.catalog import read_table
from pipeline.device import choose
from pipeline.engine import engine
from pipeline.extraction import Job, Settings, Source, extract, extract_on, facts
from pipeline.images import Rule
from pipeline.model import Model
from pipeline.staging import exclusive, fingerprint, publish
from pipeline.store import VERSION, FeatureStore
from pipeline.text import load_text
from pipeline.writer import StoreWriter, is_complete
from stages import CACHE, CATALOGS, MODEL, STAGING, Params, run

RULES: dict[str, Rule] = {"spair": "longer", "davis": "shorter", "folder": "longer"}


def main(params: Params, dataset: str) -> None:
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
    items = [source.item(settings) for source in sources]
    made_by = facts(settings, model.digest, dtype, section.encoding)
    home = STAGING / "features" / dataset
    folder = (
        home / fingerprint({"version": VERSION, **made_by}) / fingerprint({"items": [[i.id, i.key] for i in items]})
    )

    texts = CACHE / "text" / dataset
    job = Job(model, settings, device, str(dtype).removeprefix("torch."), params.model.batch_size, texts)
    with exclusive(home):
        libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
        attributes = {**made_by, "model": model.source, **libraries}
        writer = StoreWriter(folder, items, settings.blocks, attributes, section.encoding)
        others = [f for f in home.glob("*/*") if is_complete(f) and f != folder]
        earlier = [FeatureStore(f / "store.zarr") for f in others if f.parent == folder.parent]
        if params.dask.engine == "none" or not writer.missing():
            extract(sources, settings, writer, job.load, lambda prompt: load_text(texts, prompt), earlier)
        else:
            with engine(params.dask.engine, gpus=device == "cuda") as workers:
                extract_on(workers, sources, job, writer, earlier)
        publish(writer.finish(), CACHE / "features" / dataset)
        for other in others:  # they live on in DVC's cache
            shutil.rmtree(other)
    if device == "cuda":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    run(main)
