"""FLUX.1-dev at full size with random bfloat16 weights on a GPU: images/s, memory, arithmetic reached.

Run it where a GPU is at hand: python -m benchmarks.extract_gpu [--compile]. At small size it runs on a CPU.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from pipeline.backbones.flux import FluxTransformer, Text, skeleton
from pipeline.backbones.vae import LatentEncoder
from pipeline.cost import FLUX1_DEV, TEXT_TOKENS, flops
from pipeline.extraction import Extractor, Settings
from pipeline.images import TOKEN, model_size

from benchmarks.extraction import random_vae
from benchmarks.report import machine, show

SMALL = FLUX1_DEV | {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}


@dataclass(frozen=True)
class Case:
    """A benchmark's settings and the size of its images."""

    name: str
    settings: Settings
    image: tuple[int, int]
    batch_size: int


CASES = [
    Case("SPair-71k", Settings(260, (28,), 8, 3.5, "longer", 640, 0), (500, 375), 8),
    Case("DAVIS", Settings(90, (24,), 8, 3.5, "shorter", 960, 0), (854, 480), 4),
]


def random_weights(model: torch.nn.Module, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """Give a model on the meta device small random weights."""
    model = model.to(dtype).to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def transformer(config: dict[str, object], deepest: int, device: str, dtype: torch.dtype) -> FluxTransformer:
    model, norm, _ = skeleton(config, deepest)
    for part in (model, norm):
        random_weights(part, device, dtype)
    return FluxTransformer(model, norm, [deepest])


def vae(device: str, dtype: torch.dtype, small: bool) -> LatentEncoder:
    """A random VAE of FLUX's sizes."""
    model = random_vae((32,) * 4 if small else (128, 256, 512, 512))
    return LatentEncoder(model.to(device, dtype).eval(), dtype, device)


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of a large square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        synchronize(device)
        seconds.append((time.perf_counter() - start) / 4)
    return 2 * size**3 / min(seconds)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks")
    parser.add_argument("--small", action="store_true", help="a small model, to try this without a GPU")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.small:
        parser.error("no GPU here; --small runs a small model on the CPU")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = SMALL if options.small else FLUX1_DEV
    name = torch.cuda.get_device_name() if device == "cuda" else machine()
    peak = matmul_rate(device, dtype, 1024 if options.small else 8192)
    rows = [("matrix product", f"{peak / 1e12:.2f} TFLOP/s in {dtype}")]
    for case in CASES:
        s = case.settings
        if options.small:
            s = Settings(**{**vars(s), "img_size": 64, "ensemble_size": 2})
        deepest = s.blocks[0]
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        model = transformer(config, deepest, device, dtype)
        if options.compile:
            for block in (*model.model.transformer_blocks, *model.model.single_transformer_blocks):
                block.compile()
        extractor = Extractor(model, vae(device, dtype, options.small), s, case.batch_size)
        width, height = model_size(s.rule, s.img_size, *case.image)
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        text = Text(torch.randn(TEXT_TOKENS, config["joint_attention_dim"]), torch.randn(768))
        extractor.features(pixels, text, "warm")
        synchronize(device)
        start = time.perf_counter()
        for number in range(options.images):
            extractor.features(pixels, text, str(number))
        synchronize(device)
        seconds = (time.perf_counter() - start) / options.images
        tokens = (width // TOKEN) * (height // TOKEN) + TEXT_TOKENS
        work = s.ensemble_size * flops(config, deepest, tokens)
        row = f"{1 / seconds:.2f} images/s, {work / seconds / 1e12:.2f} TFLOP/s, **{work / seconds / peak:.0%}** of it"
        # The direct way runs all blocks, and the VAE for every draw.
        row += f"; the blocks that the direct way runs besides: {57 / deepest:.2f} times the arithmetic"
        if device == "cuda":
            row += f"; peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        rows.append((f"{case.name}: {width}x{height}, k = {deepest}, {s.ensemble_size} draws", row))
        del model, extractor
    show(f"Extraction on a GPU ({name})", rows)


if __name__ == "__main__":
    main()
