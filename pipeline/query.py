"""Features of any image file, made with the model and the settings of a store."""

from pathlib import Path

from pipeline.backbones.text import TextEncoder
from pipeline.device import choose
from pipeline.errors import UserError
from pipeline.extraction import Job, Settings, Source, make_store
from pipeline.model import Model
from pipeline.staging import exclusive
from pipeline.store import FeatureStore
from pipeline.text import encode_prompts


def extract_query(image: Source, store: FeatureStore, folder: Path, model: Model, device: str, batch_size: int) -> None:
    """Make a store of one image in `folder`.

    Args:
        image: to extract.
        store: whose settings are used.
        folder: of the `StoreWriter`.
        model: it must be the one that made `store`.
        device, batch_size: how it is run.
    """
    if store.attributes["model_digest"] != model.digest:
        raise UserError(
            f"{store.path}: made by the model {store.attributes['model']}, but `model.source` is now "
            f"{model.source}; set it back, or run `dvc repro`"
        )
    device, dtype = choose(device, store.attributes["dtype"])
    settings, encoding = Settings.of(store), store.attributes["encoding"]
    job = Job(model, settings, encoding, dtype, device, batch_size, texts=folder.parent / "text")
    with exclusive(folder):
        encode_prompts([image.prompt], job.texts, lambda: TextEncoder(model.component, dtype, device))
        make_store(folder, [image], job)
