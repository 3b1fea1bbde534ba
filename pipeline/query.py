"""Features of any image file, made with the model and the settings of a store."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.backbones.text import TextEncoder
from pipeline.device import choose
from pipeline.errors import UserError
from pipeline.extraction import Extractor, Settings, Source, extract, facts
from pipeline.images import inspect
from pipeline.model import Model
from pipeline.staging import exclusive
from pipeline.store import Encoding, FeatureStore
from pipeline.text import encode_prompts, load_text
from pipeline.writer import StoreWriter


@dataclass(frozen=True)
class Runner:
    """How a model is run: where, how many draws at once."""

    model: Model
    device: str
    batch_size: int


def extract_query(source: Path, prompt: str, store: FeatureStore, folder: Path, runner: Runner) -> None:
    """Make a store of the features of one image file; its one item has the file's path for an id.

    Args:
        source: the image.
        prompt: its text.
        store: whose settings are used.
        folder: of the `StoreWriter`.
        runner: the model; it must be the one that made `store`.
    """
    if store.attributes["model_digest"] != runner.model.digest:
        raise UserError(
            f"{store.path}: made by the model {store.attributes['model']}, but `model.source` is now "
            f"{runner.model.source}; set it back, or run `dvc repro`"
        )
    settings, found = Settings.of(store), inspect(source)
    image = Source(str(source), source, found.sha256, found.width, found.height, prompt)
    device, dtype = choose(runner.device, store.attributes["dtype"])

    def load_encoder() -> TextEncoder:
        return TextEncoder(runner.model.component, dtype, device)

    def load_extractor() -> Extractor:
        return Extractor.load(runner.model, settings, dtype, device, runner.batch_size)

    encoding: Encoding = store.attributes["encoding"]
    with exclusive(folder):
        attributes = {**facts(settings, runner.model.digest, dtype, encoding), "model": runner.model.source}
        writer = StoreWriter(folder, [image.item(settings)], settings.blocks, attributes, encoding)
        texts = folder.parent / "text"
        encode_prompts([prompt], texts, load_encoder)
        extract([image], settings, writer, load_extractor, lambda text: load_text(texts, text))
        writer.finish()
