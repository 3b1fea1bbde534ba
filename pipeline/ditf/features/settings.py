"""Settings of extractions and fusions. Importing them imports neither torch nor zarr."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from ditf.settings import Distinct, Settings, entry_of
from ditf.types import Descriptor, Encoding, Noise, Rule

FUSED_BLOCK = 0  # the only block of fused features
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ExtractionSettings(Settings):
    """Settings of an extraction: how images are resized, and how features are computed and stored.

    `params.yaml` and `Extractor.from_pretrained` both check their values with this class.

    Attributes:
        img_size: Size in pixels to which `rule` resizes an image.
        rule: Which sides become `img_size`; see `ditf.data.images.model_size`.
        seed: Seed of the noise.
        noise: "per-image" seeds the noise from each image; "shared" gives all images of one size the same noise.
        encoding: Type of the stored tokens. int8 halves the bytes of float16, and float32 doubles them.
    """

    img_size: int = Field(ge=32, le=4096)
    rule: Rule = "longer"
    seed: Seed = 0
    noise: Noise = "per-image"
    encoding: Encoding = "float16"


class FusionHalf(Settings):
    """One of the two features that a fusion joins.

    Attributes:
        features: Entry of `features`.
        blocks: Blocks to join, from coarse to fine where their grids differ.
        descriptor: Descriptor of the tokens of each block.
        channels: Channels that descriptors with +discard set to 0. auto finds the massive channels.
        pca: Number of principal axes to which each block is reduced, a list as long as `blocks`. null keeps all
            channels.
    """

    features: Annotated[str, entry_of("features")]
    blocks: Distinct[Annotated[int, Field(ge=0)]]
    descriptor: Descriptor
    channels: Literal["auto"] | list[Annotated[int, Field(ge=0)]] = "auto"
    pca: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None


class FusionSettings(Settings):
    """An entry of `fusions`: two entries of `features` that tasks read as one.

    Attributes:
        first: First half. It is resampled to the grid of the second.
        second: Second half.
        weight: Weight of the second half, from 0 to 1. The first half has weight 1 - `weight`.
        over: Images from which the principal axes are computed: dataset for a sample of all, pair for the two images
            of each pair.
        seed: Seed of the sample.
    """

    first: FusionHalf
    second: FusionHalf
    weight: FiniteFloat = Field(default=0.5, ge=0, le=1)
    over: Literal["dataset", "pair"] = "dataset"
    seed: Seed = 0
