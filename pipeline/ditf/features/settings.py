"""Settings of an extraction that do not depend on the model; importing them does not import torch."""

from typing import Annotated

from pydantic import Field

from ditf.settings import Settings
from ditf.types import Encoding, Noise, Rule

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ExtractionSettings(Settings):
    """How images are resized and features are computed and stored.

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
