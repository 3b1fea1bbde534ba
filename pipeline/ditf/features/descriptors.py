"""Descriptors, computed when cached features are read. All ablations use the same extraction.

Method: Gan et al., "Unleashing Diffusion Transformers for Visual Correspondence by Modulating Massive
Activations" (arXiv 2505.18584). Massive channels are set to 0, then AdaLN modulates the residual stream.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.types import DESCRIPTORS, LAYER_NORM, Descriptor, Norm

ROWS = 256  # tokens per batch; a batch fits into the processor's cache

# Massive activations are about 100x the median channel; ordinary channels stay below 3x.
MASSIVE_RATIO = 30.0
MASSIVE_SPREAD = 1.0


def describe(
    tokens: NDArray[np.floating],
    modulation: NDArray[np.floating] | None,
    descriptor: Descriptor,
    channels: Iterable[int] | None = None,
    norm: Norm = LAYER_NORM,
) -> NDArray[np.float32]:
    """Compute descriptors from features.

    Args:
        tokens: Features entering the block, [n, C].
        modulation: AdaLN shift, scale and gate of the block, [3, C], for the condition that the descriptor names; None
            for a model without AdaLN.
        descriptor: "original" returns the features themselves. "adaln" modulates them by everything that the model
            embeds, "adaln:t" by the timestep alone, and "adaln:c" by the text alone. With "+discard", `channels` are
            set to 0 first.
        channels: Massive channels, required for "+discard".
        norm: The normalization that the AdaLN modulates.

    Returns:
        Descriptors [n, C], float32, not normalized to unit length.

    Raises:
        UserError: The descriptor is unknown, or it needs a modulation or channels that are missing.
    """
    if descriptor not in DESCRIPTORS:
        raise UserError(f"descriptor: {descriptor!r} is not known. Use {', '.join(DESCRIPTORS)}.")
    if descriptor == "original":
        return np.array(tokens, np.float32)
    if modulation is None:
        raise UserError(f"descriptor: {descriptor!r} needs AdaLN, which this model does not have. Use 'original'.")
    discards = descriptor.endswith("+discard")
    if discards and channels is None:
        raise UserError(f"descriptor: {descriptor!r} needs the massive channels. Give `channels`.")
    discarded = list(channels or ()) if discards else []
    if any(not 0 <= channel < tokens.shape[1] for channel in discarded):
        raise UserError(f"channels: {discarded}, but features have channels 0..{tokens.shape[1] - 1}")
    shift, scale, _ = np.asarray(modulation, np.float32)
    gain = 1 + scale
    result = np.empty(tokens.shape, np.float32)
    for start in range(0, len(tokens), ROWS):
        x = result[start : start + ROWS]
        x[:] = tokens[start : start + ROWS]
        x[:, discarded] = 0
        if norm.kind == "layer":
            x -= x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.vecdot(x, x)[:, None] / x.shape[1] + norm.eps)
        x *= gain
        x += shift
    return result


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors [n, C] to length 1. Vectors of length 0 stay as they are."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of each channel over all tokens of all items.

    Attributes:
        magnitude: Mean absolute value, float64 [C].
        mean: Mean, float64 [C].
        std: Standard deviation, float64 [C].
    """

    magnitude: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Ratio of each channel's magnitude to the median magnitude, float64 [C]."""
        median = np.median(self.magnitude)
        return self.magnitude / median if median > 0 else np.where(self.magnitude > 0, np.inf, 1.0)

    @property
    def massive(self) -> list[int]:
        """Massive channels. Their magnitude is at least 30x the median, and their std is at most |mean|."""
        steady = self.std <= MASSIVE_SPREAD * np.abs(self.mean)
        return [int(c) for c in np.flatnonzero((self.ratio >= MASSIVE_RATIO) & steady)]

    @classmethod
    def of(cls, items: Iterable[NDArray[np.floating]]) -> "ChannelStatistics":
        """Compute the statistics of items.

        Args:
            items: Tokens of each item, [n, C]. Only one item is in memory at a time.
        """
        count, total, absolute, square = 0, np.float64(0), np.float64(0), np.float64(0)
        for tokens in items:
            x = np.asarray(tokens, np.float64)
            count += len(x)
            total = total + x.sum(0)
            absolute = absolute + np.abs(x).sum(0)
            square = square + np.einsum("nc,nc->c", x, x)
        if count == 0:
            raise ValueError("no tokens to take statistics of")
        mean, magnitude = np.atleast_1d(total / count), np.atleast_1d(absolute / count)
        return cls(magnitude, mean, np.sqrt(np.maximum(square / count - mean**2, 0)))
