"""Where a model comes from: a Hub id or a local diffusers folder, pinned so that features can say what made them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import UserError

COMPONENTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
SETTINGS = ("*.json", "*.txt", "*.model")  # of a component, all but its weights


@dataclass(frozen=True)
class Model:
    """A pinned model.

    source: a local folder or a Hub id. digest: of a folder, the hash of its files, wherever it lies; of a Hub
    id, itself with the commit.
    """

    source: str
    digest: str

    @classmethod
    def load(cls, path: Path, source: str) -> "Model":
        """The model at `source` as `save` pinned it."""
        try:
            return cls(source, str(json.loads(path.read_text(encoding="utf-8"))["digest"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a pinned model ({error}); run `dvc repro model`") from None

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"digest": self.digest}) + "\n", encoding="utf-8")

    def component(self, name: str, weights: Iterable[str] = ("*.safetensors",)) -> Path:
        """The folder of a component, fetched from the Hub where needed.

        Args:
            name: such as "vae".
            weights: patterns of the weight files wanted, within the component.
        """
        folder = Path(self.source)
        if folder.is_dir():
            return folder / name
        patterns = [f"{name}/{pattern}" for pattern in (*SETTINGS, *weights)]
        return _fetch(self.source, self.digest.rpartition("@")[2], patterns) / name


def pin(source: str, revision: str) -> Model:
    """Find out what `source` is at this moment.

    Args:
        source: a local diffusers folder, or the id of a Hub repository.
        revision: branch, tag or commit on the Hub; a local folder has none.

    Raises:
        UserError: the folder lacks a component or holds weights that are no safetensors, or the Hub does not answer.
    """
    folder = Path(source)
    if folder.is_dir():
        return Model(source, _digest(folder))
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise UserError(f"model.source: {source!r} is no folder, nor a Hub id like 'owner/name'")
    snapshot = _fetch(source, revision, ["model_index.json"])
    return Model(source, f"{source}@{snapshot.name}")


def _digest(folder: Path) -> str:
    for name in COMPONENTS:
        if not (folder / name).is_dir():
            raise UserError(f"{folder / name}: not found; model.source must be a diffusers folder of FLUX")
    files = sorted(
        path
        for name in COMPONENTS
        for pattern in (*SETTINGS, "*.safetensors")
        for path in (folder / name).glob(pattern)
    )
    total = hashlib.sha256()
    size = sum(path.stat().st_size for path in files)
    with tqdm(desc="hashing the model", total=size, unit="B", unit_scale=True, delay=1) as bar:
        for path in files:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
            bar.update(path.stat().st_size)
    return total.hexdigest()


def _fetch(source: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"model.source: {source!r} at {revision!r} cannot be fetched from the Hub ({reason:.200}); "
            "accept its licence there and run `hf auth login`, or give a local diffusers folder"
        ) from None
