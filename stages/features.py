"""Run a model once over every image of a data set -> cache/features/<features>, a Zarr store."""

import time

import torch

from ditf.features.extract import extract
from ditf.features.extractor import key_of
from ditf.files import bytes_in, exclusive, fingerprint, publish
from ditf.project.entries import extraction, workers_of
from ditf.project.paths import FEATURES, dvc_objects, staging
from ditf.project.staging import reusable_stores, tidy
from stages import Params, record_run, run


def main(params: Params, name: str) -> None:
    objects, home = dvc_objects(), staging() / "features" / name
    start = time.monotonic()
    with workers_of(params, params.features[name].model) as client:
        sources, job = extraction(params, name, client)
        items = [[source.id, key_of(source.pixels_sha256, source.prompt)] for source in sources]
        folder = home / fingerprint([job.extraction_config, items])
        with exclusive(folder), reusable_stores(home, folder, job.extraction_config, objects) as reuse:
            done = extract(folder, sources, job, client, reuse)
            publish(done.path, FEATURES / name)
    tidy(home, folder, objects)
    record_run("features", name, start, images=len(sources), computed=done.computed, bytes=bytes_in(FEATURES / name))
    print(f"{done.computed} of {len(sources)} images went through the model")
    if client is None and torch.cuda.is_available():
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    run(main, "features")
