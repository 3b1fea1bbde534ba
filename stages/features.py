"""FLUX over every image of a data set, once -> cache/features/<dataset>, a Zarr store."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.catalog import read_table
from pipeline.device import choose
from pipeline.engine import Spec, engine
from pipeline.extraction import Job, Settings, Source, extract, extract_on, facts
from pipeline.images import Rule
from pipeline.model import Model
from pipeline.staging import exclusive, fingerprint, publish
from pipeline.store import VERSION, Encoding, FeatureStore, Item
from pipeline.text import load_text
from pipeline.writer import StoreWriter, is_complete
from stages import CACHE, CATALOGS, MODEL, STAGING, Params, run

RULES: dict[str, Rule] = {"spair": "longer", "davis": "shorter", "folder": "longer"}


@dataclass(frozen=True)
class Work:
    """What the parameters ask for: images, how they are extracted, and what the store will say of itself."""

    sources: list[Source]
    job: Job
    made_by: dict[str, Any]
    encoding: Encoding

    @classmethod
    def of(cls, params: Params, dataset: str) -> "Work":
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
            Source(r["id"], Path(section.root) / r["path"], *(r[k] for k in ("sha256", "width", "height", "prompt")))
            for r in read_table(CATALOGS / dataset, "images")
        ]
        texts, name = CACHE / "text" / dataset, str(dtype).removeprefix("torch.")
        job = Job(model, settings, device, name, params.model.batch_size, texts)
        return cls(sources, job, facts(settings, model.digest, dtype, section.encoding), section.encoding)

    @property
    def items(self) -> list[Item]:
        """Of the store, in its order."""
        return [source.item(self.job.settings) for source in self.sources]

    def write(self, folder: Path, sources: list[Source], spec: Spec, reuse: Sequence[FeatureStore] = ()) -> Path:
        """Make a store of `sources` in `folder`, going on where an earlier attempt stopped; returns its path."""
        libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
        attributes = {**self.made_by, "model": self.job.model.source, **libraries}
        items = [source.item(self.job.settings) for source in sources]
        writer = StoreWriter(folder, items, self.job.settings.blocks, attributes, self.encoding)
        if spec == "none" or not writer.missing():
            extract(sources, self.job.settings, writer, self.job.load, lambda p: load_text(self.job.texts, p), reuse)
        else:
            with engine(spec, gpus=self.job.device == "cuda") as workers:
                extract_on(workers, sources, self.job, writer, reuse)
        return writer.finish()


def main(params: Params, dataset: str) -> None:
    work = Work.of(params, dataset)
    home = STAGING / "features" / dataset
    named = fingerprint({"version": VERSION, **work.made_by})
    folder = home / named / fingerprint({"items": [[i.id, i.key] for i in work.items]})
    with exclusive(home):
        others = [f for f in home.glob("*/*") if is_complete(f) and f != folder]
        earlier = [FeatureStore(f / "store.zarr") for f in others if f.parent == folder.parent]
        publish(work.write(folder, work.sources, params.dask.engine, earlier), CACHE / "features" / dataset)
        for other in others:  # they live on in DVC's cache
            shutil.rmtree(other)
    if work.job.device == "cuda" and params.dask.engine == "none":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    run(main)
