"""`params.yaml`, validated once at the edge: an unknown key or a wrong value is named in one line."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from pipeline.descriptors import Descriptor
from pipeline.errors import UserError

T = TypeVar("T")
DATASETS = ("spair", "davis", "folder")


def _distinct(values: list[T]) -> list[T]:
    if len(set(values)) != len(values):
        raise ValueError("each value may stand only once")
    return values


Block = Annotated[int, Field(ge=0, le=56)]


class Section(BaseModel):
    """A part of the file: unknown keys are errors, and values are read strictly."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Model(Section):
    """The diffusion model and how it is run."""

    source: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda"]
    batch_size: int = Field(ge=1)


class Dataset(Section):
    """What all data sets share: where the images lie, and how features are made of them."""

    root: str = Field(min_length=1)
    prompt: str
    img_size: int = Field(ge=32, le=4096)
    timestep: int = Field(ge=0, le=1000)
    blocks: Annotated[list[Block], Field(min_length=1), AfterValidator(_distinct)]
    ensemble_size: int = Field(ge=1, le=1024)
    guidance: FiniteFloat = Field(ge=0)
    encoding: Literal["float16", "int8"]
    block: Block
    channels: Literal["auto"] | Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_distinct)]

    @model_validator(mode="after")
    def _block_is_captured(self) -> "Dataset":
        if self.block not in self.blocks:
            raise ValueError(f"block {self.block} is not among blocks {self.blocks}: add it there")
        return self


class Folder(Dataset):
    """A folder of images, with a list of prompts or without."""

    prompts: str | None


class Benchmark(Dataset):
    """What both benchmarks share: which part is evaluated, by which descriptors."""

    split: str = Field(pattern=r"^\w+$")
    descriptors: Annotated[list[Descriptor], Field(min_length=1), AfterValidator(_distinct)]


class SPair(Benchmark):
    """Semantic correspondence."""

    split: Literal["trn", "val", "test"]
    captions: str | None
    alphas: Annotated[list[Annotated[FiniteFloat, Field(gt=0, le=1)]], Field(min_length=1), AfterValidator(_distinct)]


class Davis(Benchmark):
    """Video segmentation by label propagation."""

    img_size: int = Field(ge=32, le=4096, multiple_of=16)
    year: Literal[2016, 2017]
    topk: int = Field(ge=1)
    temperature: FiniteFloat = Field(gt=0)
    n_last_frames: int = Field(ge=0)
    size_mask_neighborhood: int = Field(ge=0)


class Index(Section):
    """Search over features. kind: auto, flat, ivfsq, ivfpq, hnsw, or a factory string of FAISS."""

    kind: str = Field(min_length=1)
    descriptor: Descriptor


class Dask(Section):
    """Where work runs. engine: "none", a number of local workers, or a scheduler's address."""

    engine: Literal["none"] | Annotated[int, Field(ge=1, le=1024)] | Annotated[str, Field(pattern=r"^(tcp|tls)://\S+$")]


class Sample(Section):
    """The embedded data set and the tiny model."""

    seed: int = Field(ge=0, lt=2**32)


class Params(Section):
    """All of `params.yaml`."""

    seed: int = Field(ge=0, lt=2**32)
    sample: Sample
    model: Model
    spair: SPair
    davis: Davis
    folder: Folder
    index: Index
    dask: Dask

    def dataset(self, name: str) -> Dataset:
        """The section of the data set `name`, one of `DATASETS`."""
        if name not in DATASETS:
            raise UserError(f"{name!r} is no data set; use {', '.join(DATASETS)}")
        section: Dataset = getattr(self, name)
        return section


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate `path`. Raises `UserError` with every wrong field, each with what is expected."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(_describe(path, item) for item in error.errors())) from None


def _describe(path: Path, error: object) -> str:
    assert isinstance(error, dict)
    where = ".".join(str(part) for part in error["loc"]) or "(top level)"
    if error["type"] == "extra_forbidden":
        return f"{path}: {where}: unknown parameter; remove it or correct its name"
    if error["type"] == "missing":
        return f"{path}: {where}: missing; add it (docs/parameters.md lists the defaults)"
    return f"{path}: {where}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r:.80})"
