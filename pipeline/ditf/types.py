"""Types that all parts of the package share: descriptors, AdaLN conditions and normalizations, encodings."""

from dataclasses import dataclass
from typing import Literal, get_args

Descriptor = Literal["original", "adaln", "adaln+discard", "adaln:t", "adaln:t+discard", "adaln:c", "adaln:c+discard"]
DESCRIPTORS: tuple[Descriptor, ...] = get_args(Descriptor)
ORIGINAL = DESCRIPTORS[:1]  # descriptors of a model without AdaLN
MODULATED = DESCRIPTORS[:3]  # descriptors of a model whose AdaLN does not embed timestep and text separately

# What an AdaLN is modulated by: everything that the model embeds ("both"), its timestep only, or its text only.
Condition = Literal["both", "t", "c"]
BOTH: Condition = "both"

STORE_VERSION = 6  # of stores, and of extraction as far as all families share it; part of what features are known by

Encoding = Literal["float16", "float32", "int8"]  # how a store keeps tokens
Noise = Literal["per-image", "shared"]
Rule = Literal["longer", "shorter", "square"]  # how an image is resized for a model


@dataclass(frozen=True)
class Norm:
    """The normalization that an AdaLN modulates: over the channels, without affine parameters.

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
