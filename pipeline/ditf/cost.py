"""What an extraction costs, computed from the sizes of the model and the images before anything is run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.index import AXES, FLAT_TOKENS
from pipeline.writer import SHARD_BYTES

FLUX1_DEV: dict[str, Any] = {
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "in_channels": 64,
    "axes_dims_rope": (16, 56, 56),
}
TEXT_TOKENS = 512
# Of the width, a token and draw: the residual stream, queries, keys, values, the MLP's four widths, and their copies.
ACTIVATIONS = 20
OTHER_WEIGHTS = 0.2e9  # bytes: the VAE, embeddings and the last norm, in 16 bits


@dataclass(frozen=True)
class Cost:
    """Of an extraction. flops: multiplications and additions. memory: of a worker's model, in bytes."""

    images: int
    tokens: int
    flops: float
    feature_bytes: int
    files: int
    index_bytes: int
    memory: float


def width_of(config: Mapping[str, Any]) -> int:
    """The channels of a transformer."""
    return int(config["attention_head_dim"] * config["num_attention_heads"])


def flops(config: Mapping[str, Any], deepest: int, tokens: int) -> float:
    """Multiplications and additions of one draw: the linear layers and attention of the blocks before `deepest`.

    `tokens` are those of the image and of the text.
    """
    width = width_of(config)
    linear = 24 * width**2  # a token: q, k, v, output, and an MLP of 4 widths, in either kind of block
    return float(deepest * (tokens * linear + 4 * tokens**2 * width))


def weights(config: Mapping[str, Any], deepest: int) -> float:
    """Parameters of the blocks up to `deepest`, whose modulation alone is needed."""
    width = width_of(config)
    double = min(deepest, config["num_layers"])
    return float((36 * double + 15 * (deepest - double)) * width**2)


def estimate(
    config: Mapping[str, Any],
    tokens: Iterable[int],
    blocks: Iterable[int],
    ensemble_size: int,
    batch_size: int,
    encoding: str,
    number_bytes: int,
) -> Cost:
    """The cost of images with `tokens` tokens each.

    Args:
        config: of the transformer.
        tokens: of each image.
        blocks: captured.
        ensemble_size, batch_size: draws, in all and at once.
        encoding: of the store. number_bytes: of a weight.
    """
    counts, blocks = list(tokens), list(blocks)
    width = width_of(config)
    deepest, most, total = max(blocks), max(counts), sum(counts)
    stored = 2 if encoding == "float16" else 1
    features = len(blocks) * (total * width * stored + len(counts) * 3 * width * 4)
    per_shard = max(1, SHARD_BYTES // (most * width * stored))
    activations = min(ensemble_size, batch_size) * (most + TEXT_TOKENS) * width * ACTIVATIONS
    return Cost(
        images=len(counts),
        tokens=total,
        flops=ensemble_size * sum(flops(config, deepest, n + TEXT_TOKENS) for n in counts),
        feature_bytes=features,
        files=2 * len(blocks) * -(-len(counts) // per_shard),
        index_bytes=total * (4 * width if total <= FLAT_TOKENS else min(AXES, width) + 8) + len(counts) * 4 * width,
        memory=number_bytes * (weights(config, deepest) + activations) + OTHER_WEIGHTS * number_bytes / 2,
    )
