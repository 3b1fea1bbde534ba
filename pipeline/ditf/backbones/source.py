"""Sources of models: a Hub id, a local folder, "miniature", or "tiny-SEED".

A model is pinned by a commit or by the hash of its files.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import Field, model_validator
from tqdm import tqdm

from ditf.backbones.base import Backbone
from ditf.errors import UserError
from ditf.files import Hashes, fingerprint
from ditf.registry import find_type, version_of
from ditf.settings import Settings, invalid, parse, problem

SETTINGS = ("*.json", "*.txt", "*.model")  # files of a component besides its weights
TINY = ("tiny-", "tiny:")  # prefixes of a seed; the colon is the older spelling
MINIATURE = "miniature"
MINIATURE_FOLDER = Path(__file__).parent / "miniature"  # a FluxPipeline in diffusers' layout, with a model card
# Attributes of a model and loading options that change features. The stage `entries` records both.
PINNED = ("family", "source", "revision", "digest", "weights")
RECORDED = ("dtype", "quantize", "tiling")


class LoadingSettings(Settings):
    """Options for loading a model. `offload` and `compile` change features only by rounding.

    Attributes:
        dtype: Type of the computation. "auto" is bfloat16 on a GPU and float32 on a CPU.
        offload: "blocks" keeps the blocks in the CPU's memory and copies each to the GPU when it runs.
        quantize: "int8" or "nf4" stores the weights of the blocks in 8 or 4 bits.
        gguf: Path of a GGUF file with quantized weights, read instead of the folder's weights.
        tiling: Let the autoencoder encode large images in tiles.
        compile: Compile the blocks with torch's compiler.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    offload: Literal["none", "blocks"] = "none"
    quantize: Literal["none", "int8", "nf4"] = "none"
    gguf: str | None = None
    tiling: bool = False
    compile: bool = False


PLAIN = LoadingSettings()
BackboneClass = type[Backbone]


class ModelSettings(LoadingSettings):
    """A model and how it runs: an entry of `models`, or the arguments of `Extractor.from_pretrained`.

    Attributes:
        type: Family of the model, such as "flux", or "package.module.Class".
        source: Hub id, local folder, "miniature" for the small trained FLUX in this package, or "tiny-SEED" for a tiny
            random model.
        revision: Branch, tag or commit on the Hub.
        device: "auto" is the GPU if there is one, otherwise the CPU.
        batch_size: Noise samples per forward pass. Another value changes features only by rounding.
    """

    type: str
    source: str = Field(min_length=1)
    revision: str = Field(default="main", min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(default=8, ge=1)

    @property
    def loading(self) -> LoadingSettings:
        """The loading options alone."""
        return LoadingSettings(**{name: getattr(self, name) for name in LoadingSettings.model_fields})

    @property
    def backbone(self) -> BackboneClass:
        """The settings class of the family."""
        return find_type(Backbone, self.type)

    @model_validator(mode="after")
    def _check_options(self) -> "ModelSettings":
        """Check that the family supports the loading options, and that the options go together."""
        try:
            supported = self.backbone.options
        except UserError as error:
            raise invalid(problem(("type",), str(error).removeprefix("type: "))) from None
        problems = [
            problem((option,), f"models of type {self.type} do not support this option. Remove it.")
            for option in LoadingSettings.model_fields
            if option != "dtype" and getattr(self, option) != getattr(PLAIN, option) and option not in supported
        ]
        if not problems and self.gguf and self.quantize != "none":
            problems.append(problem(("quantize",), "the weights of gguf are already quantized. Remove one of the two."))
        if not problems and self.offload != "none" and (self.gguf or self.quantize != "none"):
            other = "gguf" if self.gguf else "quantize"
            problems.append(problem(("offload",), f"quantized blocks cannot be offloaded. Remove offload or {other}."))
        if problems:
            raise invalid(*problems)
        return self


@dataclass(frozen=True)
class Model:
    """A pinned model.

    Attributes:
        family: Type of its backbone.
        source: Hub id, local folder, "miniature" for the small trained FLUX in this package, or "tiny-SEED" for a tiny
            random model of the family.
        revision: Branch, tag or commit on the Hub.
        digest: The commit of a Hub id, or the hash of a folder's files, which does not depend on where the folder is.
        weights: Hash of a GGUF file; empty without one.
        loading: How the model is loaded.
    """

    family: str
    source: str
    revision: str
    digest: str
    weights: str = ""
    loading: LoadingSettings = PLAIN

    @property
    def backbone(self) -> type[Backbone]:
        """The settings class of the family."""
        return find_type(Backbone, self.family)

    @property
    def extraction_config(self) -> dict[str, str]:
        """Values that identify the model in an extraction. They do not depend on where its files are."""
        identity = {"family": self.family, "digest": self.digest, "version": version_of(self.backbone)}
        options = {"weights": self.weights, "quantize": self.loading.quantize, "tiling": self.loading.tiling}
        return identity | {name: str(value) for name, value in options.items() if value not in ("", "none", False)}

    @classmethod
    def load(cls, path: Path) -> "Model":
        """Read a pinned model from the file that the stage `entries` wrote.

        Raises:
            UserError: The file cannot be read, or it contains the reason why the model was not found.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if "error" in record:
                raise UserError(record["error"])
            loading = parse(LoadingSettings, {name: record[name] for name in RECORDED}, "")
            return cls(**{name: str(record[name]) for name in PINNED}, loading=loading)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a pinned model ({error}). Run `dvc repro`.") from None

    @property
    def record(self) -> dict[str, Any]:
        """Content of the file that `load` reads, as plain values."""
        loading = {name: getattr(self.loading, name) for name in RECORDED}
        return {name: getattr(self, name) for name in PINNED} | loading

    def check(self, hashes: Hashes) -> None:
        """Check that the files of the source are those that were pinned.

        Args:
            hashes: Known hashes of local files.

        Raises:
            UserError: The files changed.
        """
        revision = self.digest if is_hub(self.source) else self.revision
        current = pin(self.family, self.source, revision, hashes, self.loading)
        if (current.digest, current.weights) != (self.digest, self.weights):
            raise UserError(f"{self.source}: its files changed since it was pinned. Run `dvc repro`, or restore them.")

    def component(self, name: str, weights: Iterable[str] = ("*.safetensors",)) -> Path:
        """Return the folder of a component; files on the Hub are downloaded first.

        Args:
            name: Name of the component, such as "vae"; "" for the model's own folder.
            weights: Patterns of the component's weight files that are needed.
        """
        if not is_hub(self.source):
            return local_folder(self.family, self.source) / name
        prefix = f"{name}/" if name else ""
        return _fetch(self.source, self.digest, [f"{prefix}{pattern}" for pattern in (*SETTINGS, *weights)]) / name


def pin(family: str, source: str, revision: str, hashes: Hashes, loading: LoadingSettings = PLAIN) -> Model:
    """Pin the model that a source contains now by a commit or by the hash of its files.

    Args:
        family: Type of the model's backbone.
        source: Hub id, local folder, "miniature" or "tiny-SEED".
        revision: Branch, tag or commit on the Hub. Folders have no revisions.
        hashes: Known hashes of local files.
        loading: How the model is loaded.

    Raises:
        UserError: The folder lacks a component or has no safetensors weights, or the Hub does not answer.
    """
    if loading.gguf and not Path(loading.gguf).is_file():
        raise UserError(f"gguf: {loading.gguf} is not a file. Give the path of a GGUF file.")
    weights = hashes.of(Path(loading.gguf)) if loading.gguf else ""
    if is_hub(source):
        return Model(family, source, revision, _fetch(source, revision, ["*.json"]).name, weights, loading)
    folder = local_folder(family, source)
    components = find_type(Backbone, family).components(folder)
    for name in components:
        if not (folder / name).is_dir():
            raise UserError(
                f"{folder / name}: not found. A model of type {family} has {', '.join(components)}; download it again."
            )
    files = sorted(
        path
        for pattern in (*SETTINGS, "*.safetensors")
        for name in components
        for path in (folder / name).glob(pattern)
    )
    if not any(path.suffix == ".safetensors" for path in files):
        check_weights(folder)
    for name in components:
        if any((folder / name).glob("*.safetensors")):
            check_weights(folder / name)
    bar = tqdm(files, "hashing the model", unit="file", delay=1)
    digest = fingerprint([[p.relative_to(folder).as_posix(), hashes.of(p)] for p in bar])
    return Model(family, source, revision, digest, weights, loading)


def check_weights(folder: Path) -> None:
    """Check that a folder has weights that diffusers and transformers load by default.

    Raises:
        UserError: The folder has no safetensors file, or only files of a variant such as fp16.
    """
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise UserError(f"{folder}: has no .safetensors file, and only safetensors are read. Convert the weights.")
    # A variant stands between the name and the suffix, as in model.fp16.safetensors.
    if all("." in name.removesuffix(".safetensors") for name in names):
        variant = names[0].split(".")[1].partition("-")[0]
        raise UserError(
            f"{folder}: has only weights of the variant {variant!r} ({names[0]}). Download the files without a "
            f"variant, or load the model with `variant={variant!r}` in diffusers and save it again."
        )


def is_hub(source: str) -> bool:
    """Return whether a source is the id of a Hub repository. Raises `UserError` if it is no valid source."""
    if source == MINIATURE or source.startswith(TINY) or Path(source).is_dir():
        return False
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise UserError(
            f"source: {source!r} is not a folder, a Hub id like 'owner/name', 'miniature', or 'tiny-SEED'. Correct it."
        )
    return True


def local_folder(family: str, source: str) -> Path:
    """Return the folder of a source that is not on the Hub. A tiny model is created on first use.

    Args:
        family: Type of the model's backbone.
        source: Local folder, "miniature" or "tiny-SEED".

    Raises:
        UserError: The seed of a tiny model is not a number, or the family has no tiny model.
    """
    if source == MINIATURE:
        return MINIATURE_FOLDER
    if not source.startswith(TINY):
        return Path(source)
    seed = source[len("tiny-") :]
    if not seed.isdecimal() or int(seed) >= 2**32:
        raise UserError(f"source: {source!r}: the seed of a tiny model is a number, as in 'tiny-0'.")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ditf"
    backbone = find_type(Backbone, family)
    extraction_config = fingerprint([family, version_of(backbone), version("ditf"), version("torch")])
    folder = home / f"tiny-{extraction_config[:8]}-{seed}"
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{folder.name}.lock"):
            if not folder.is_dir():
                partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
                backbone.build_tiny(partial, int(seed))
                partial.replace(folder)
    return folder


def _fetch(source: str, revision: str, patterns: list[str]) -> Path:
    """Download the files of a Hub repository that match the patterns, and return the folder of the snapshot."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"source: {source!r} at {revision!r} cannot be downloaded from the Hub ({reason:.200}). Check the "
            "name, accept its licence there and run `hf auth login`, or give a local folder."
        ) from None


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a model's `config.json`.

    Raises:
        UserError: The file does not exist, or is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Is the source a model's folder?") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}). Download it again.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a configuration. Download it again.")
    return config


def read_pipeline_index(folder: Path) -> dict[str, Any]:
    """Return the content of a pipeline folder's `model_index.json`, or an empty dictionary where there is none.

    Raises:
        UserError: The file is not valid JSON.
    """
    path = folder / "model_index.json"
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    return index
