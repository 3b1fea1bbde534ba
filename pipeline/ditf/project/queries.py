"""Features of image files that are in no data set. They are extracted once and kept in `cache/queries`."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from ditf.config.params import Params
from ditf.data.catalog import Catalog
from ditf.data.images import hash_pixels, read_rgb
from ditf.datasets.folder import CATEGORY
from ditf.errors import UserError
from ditf.features.fusion import open_store
from ditf.features.reader import FeatureReader
from ditf.features.store import FeatureStore
from ditf.files import exclusive, fingerprint, warning_if_unwritable
from ditf.project.entries import check_entry, extraction, require_same
from ditf.project.paths import CATALOGS, FEATURES, QUERIES


def features_of_file(
    params: Params,
    name: str,
    path: Path,
    prompt: str | None = None,
    report: Callable[[int], object] = lambda samples: None,
) -> tuple[FeatureReader, str]:
    """Return features of an image file with the settings of an entry. They are extracted if they are not cached.

    If the data set of the entry has the same image, its features are used.

    Args:
        params: Parameters of the project.
        name: An entry of `features`.
        path: The file.
        prompt: Prompt of the image. By default, the prompt of the data set.
        report: Called after each pass of the model with the number of finished noise samples.

    Returns:
        A store, and the id of the image in it.

    Raises:
        UserError: The file is not an image, or the entry is a fusion or has no features yet.
    """
    check_entry([*params.features, *params.fusions], name, "features")
    store = open_store(FEATURES / name)
    dataset = params.features[params.fusions[name].first.features if name in params.fusions else name].dataset
    digest = hash_pixels(read_rgb(path))
    for item, row in Catalog(CATALOGS / dataset).images().items():
        if row["pixels_sha256"] == digest and prompt in (None, row["prompt"]) and item in store:
            return store, item
    if name in params.fusions:
        raise UserError(f"{path}: a fusion has only features of its data set. Give the id of an image of the data set.")
    if prompt is None:
        prompt = getattr(params.datasets[dataset], "prompt", "").replace("{category}", CATEGORY)
    folder = QUERIES / fingerprint(store.attributes["extraction_config"]) / fingerprint([digest, prompt])
    if not (folder / "complete").exists():
        if not _can_write(folder.parent):
            folder = Path(_temporary().name) / folder.relative_to(QUERIES)
        _extract(params, name, store, path, prompt, folder, report)
    extracted = FeatureStore(folder / "store.zarr")
    return extracted, extracted.ids[0]


def _extract(
    params: Params,
    name: str,
    store: FeatureReader,
    path: Path,
    prompt: str,
    folder: Path,
    report: Callable[[int], object],
) -> None:
    """Extract the features of a file with the settings of a store.

    Args:
        params: Parameters of the project.
        name: The entry of `features` whose settings are used.
        store: The store of the entry.
        path: The file.
        prompt: Prompt of the image.
        folder: Folder of the new store. Its parent also holds the encoded prompts.
        report: Called after each pass of the model with the number of finished noise samples.
    """
    # Here, because these modules import torch.
    from ditf.backbones.device import choose
    from ditf.features.extract import extract
    from ditf.features.job import ImageSource
    from ditf.features.text import encode_prompts

    _, job = extraction(params, name)
    require_same(store, job.extraction_config)
    source = ImageSource.from_file(path.name, path, prompt)
    job = replace(job, texts=folder.parent / "text")
    if job.model.loading.offload == "none":  # which copies the model to the GPU in each pass
        job = replace(job, batch_size=1)  # so that each noise sample is reported
    with exclusive(folder):
        device, dtype = choose(job.device, job.text_dtype)
        encode_prompts([prompt], job.texts, job.model, job.backbone, dtype, device)
        extract(folder, [source], job, report=report)


def _can_write(folder: Path) -> bool:
    """Return whether files can be written to a folder, which is created. If not, print a warning."""
    with warning_if_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    return False


@functools.cache
def _temporary() -> "TemporaryDirectory[str]":
    """Return a folder that is removed when the process ends."""
    return TemporaryDirectory(prefix="ditf-")
