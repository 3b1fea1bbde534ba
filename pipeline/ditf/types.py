"""Types and constants that all parts of the package share."""

from dataclasses import dataclass
from typing import Literal, get_args

Descriptor = Literal["original", "adaln", "adaln+discard", "adaln:t", "adaln:t+discard", "adaln:c", "adaln:c+discard"]
DESCRIPTORS: tuple[Descriptor, ...] = get_args(Descriptor)
ORIGINAL = DESCRIPTORS[:1]  # the descriptor of models without AdaLN
MODULATED = DESCRIPTORS[:3]  # descriptors of models whose AdaLN does not embed timestep and text separately

# The input of the AdaLN modulation: everything that the model embeds ("both"), the timestep only, or the text only.
Condition = Literal["both", "t", "c"]
BOTH: Condition = "both"

# The version of the store format and of the extraction code that all families share. It is part of the fingerprint of
# features.
STORE_VERSION = 6

Encoding = Literal["float16", "float32", "int8"]  # the number format of tokens in a store
Noise = Literal["per-image", "shared"]  # whether images of one size share their noise
Rule = Literal["longer", "shorter", "square"]  # the side of an image that is resized to a given length


@dataclass(frozen=True)
class Norm:
    """A normalization over channels without affine parameters, whose result an AdaLN modulates.

    Attributes:
        kind: "layer" for a layer norm, "rms" for an RMS norm.
        eps: Added to the variance.
    """

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-6


LAYER_NORM = Norm()


def condition_of(descriptor: Descriptor) -> Condition:
    """Return the condition whose AdaLN modulation a descriptor uses."""
    condition = descriptor.partition("+")[0].partition(":")[2]
    return "t" if condition == "t" else "c" if condition == "c" else BOTH
