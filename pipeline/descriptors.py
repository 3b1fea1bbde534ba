"""Descriptors from cached features, computed when read so that every ablation is free.

Method: Gan et al., "Unleashing Diffusion Transformers for Visual Correspondence by Modulating Massive
Activations" (arXiv 2505.18584): AdaLN modulation of the residual stream, massive channels set to zero first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LAYER_NORM_EPS = 1e-6

# Massive activations are about 100x the median channel; ordinary channels stay below 3x.
MASSIVE_RATIO = 30.0
MASSIVE_SPREAD = 1.0

Descriptor = Literal["original", "adaln", "adaln+discard"]


def describe(
    tokens: NDArray[np.floating],
    modulation: NDArray[np.floating],
    descriptor: Descriptor,
    channels: Iterable[int] = (),
) -> NDArray[np.float32]:
    """Turn raw features into descriptors.

    Args:
        tokens: features entering the block, [n, C].
        modulation: the block's AdaLN shift, scale and gate, [3, C].
        descriptor: "original" (as it is), "adaln", or "adaln+discard" (`channels` set to 0, then AdaLN).
        channels: the massive channels, used by "adaln+discard" alone.

    Returns:
        Descriptors [n, C], float32, not normalised to unit length.
    """
    x = np.array(tokens, np.float32)
    if descriptor == "original":
        return x
    if descriptor == "adaln+discard":
        x[:, list(channels)] = 0
    shift, scale, _ = np.asarray(modulation, np.float32)
    x -= x.mean(axis=1, keepdims=True)
    variance = np.einsum("nc,nc->n", x, x)[:, None] / x.shape[1]
    x /= np.sqrt(variance + LAYER_NORM_EPS)
    x *= 1 + scale
    x += shift
    return x


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [n, C] scaled to length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class ChannelStatistics:
    """Per-channel statistics over all tokens of all items; each array is [C], float64.

    magnitude: mean of |x|. mean, std: of x. ratio: magnitude over the median channel's magnitude.
    """

    magnitude: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    ratio: NDArray[np.float64]

    @property
    def massive(self) -> list[int]:
        """The massive channels: at least 30x the median magnitude, and steady (std at most |mean|)."""
        steady = self.std <= MASSIVE_SPREAD * np.abs(self.mean)
        return [int(c) for c in np.flatnonzero((self.ratio >= MASSIVE_RATIO) & steady)]


def channel_statistics(items: Iterable[NDArray[np.floating]]) -> ChannelStatistics:
    """Statistics of the channels over `items`, each [n, C]; streams, holding one item at a time."""
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
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    median = np.median(magnitude)
    ratio = magnitude / median if median > 0 else np.where(magnitude > 0, np.inf, 1.0)
    return ChannelStatistics(magnitude, mean, std, ratio)
