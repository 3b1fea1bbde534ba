"""Extraction of an entry of `features`: in staging, and then published as its output."""

from dataclasses import dataclass

import torch

from ditf.config.params import Params
from ditf.features.extract import extract, resume_store
from ditf.features.job import key_of
from ditf.files import exclusive, fingerprint, publish
from ditf.project.entries import extraction, workers_of
from ditf.project.paths import FEATURES
from ditf.project.staging import home_of, reusable_stores, tidy


@dataclass(frozen=True)
class EntryExtraction:
    """Result of an extraction.

    Attributes:
        images: Number of images in the store.
        computed: Number of images that went through the model. The others were copied or already there.
        peak_memory: Bytes of GPU memory that this process needed; None if the model ran elsewhere or on a CPU.
    """

    images: int
    computed: int
    peak_memory: int | None


def extract_entry(params: Params, name: str, resume_output: bool = False) -> EntryExtraction:
    """Extract an entry of `features`, and publish its store.

    Args:
        params: All parameters.
        name: The entry.
        resume_output: Whether to continue with the store that is published, whose damaged chunks were removed, instead
            of the one in staging.

    Raises:
        UserError: The model, an image or a parameter is wrong, or something cannot be written.
    """
    home, output = home_of(name), FEATURES / name
    with workers_of(params, params.features[name].model) as client:
        sources, job = extraction(params, name, client)
        items = [[source.id, key_of(source.pixels_sha256, source.prompt)] for source in sources]
        folder = home / fingerprint([job.extraction_config, items])
        with exclusive(folder):
            if resume_output:
                resume_store(folder, output)
            done = extract(folder, sources, job, client, reusable_stores(home, folder))
            publish(done.path, output)
        peak = torch.cuda.max_memory_allocated() if client is None and torch.cuda.is_available() else None
    tidy(home, folder)
    return EntryExtraction(len(sources), done.computed, peak)
