"""FLUX.1-dev at full size with random bfloat16 weights on a GPU: images/s, memory, arithmetic reached.

Run it where a GPU is at hand: python -m benchmarks.extract_gpu [--compile]. At small size it runs on a CPU.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.extraction import random_vae
from benchmarks.report import machine, show
from ditf.backbones.flux import TEXT_TOKENS, Flux, LoadedFlux
from ditf.backbones.parts.latents import LatentEncoder
from ditf.features.extractor import Extractor
from ditf.images import Rule, model_size

DEV = dict(Flux.published["black-forest-labs/FLUX.1-dev"].config)
SMALL = DEV | {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}


@dataclass(frozen=True)
class Case:
    """A benchmark's settings and the size of its images."""

    name: str
    settings: Flux
    rule: Rule
    img_size: int
    image: tuple[int, int]
    batch_size: int


CASES = [
    Case("SPair-71k", Flux(timestep=260, blocks=[28]), "longer", 640, (500, 375), 8),
    Case("DAVIS", Flux(timestep=90, blocks=[24]), "shorter", 960, (854, 480), 4),
]


def denoiser(config: dict[str, Any], settings: Flux, device: str, dtype: torch.dtype) -> Any:
    """FLUX's transformer up to the captured block, with small random weights."""
    layout = LoadedFlux.layout
    model = layout.skeleton(config)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    needed = layout.needed(model, max(settings.blocks))
    layout.fill(model, {n: 0.02 * torch.randn(shapes[n], device=device, dtype=dtype) for n in needed}, device)
    return model


def vae(device: str, dtype: torch.dtype, small: bool) -> LatentEncoder:
    """A random VAE of FLUX's sizes."""
    model = random_vae((32,) * 4 if small else (128, 256, 512, 512))
    return LatentEncoder(model.to(device, dtype).eval(), dtype, device)


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations per second of a large square matrix product."""
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
    config = SMALL if options.small else DEV
    name = torch.cuda.get_device_name() if device == "cuda" else machine()
    peak = matmul_rate(device, dtype, 1024 if options.small else 8192)
    rows = [("matrix product", f"{peak / 1e12:.2f} TFLOP/s in {dtype}")]
    for case in CASES:
        s, img_size = case.settings, case.img_size
        if options.small:
            s, img_size = s.model_copy(update={"ensemble_size": 2}), 64
        deepest = s.blocks[0]
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        model = denoiser(config, s, device, dtype)
        if options.compile:
            model.compile_repeated_blocks()
        loaded = LoadedFlux(model, s, vae(device, dtype, options.small), s.schedule())
        extractor = Extractor(loaded, s, batch_size=case.batch_size)
        width, height = model_size(case.rule, img_size, *case.image, loaded.stride)
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        text = {"prompt_embeds": torch.randn(TEXT_TOKENS, model.config.joint_attention_dim), "pooled": torch.randn(768)}
        extractor.features(pixels, text, "warm")
        synchronize(device)
        start = time.perf_counter()
        for number in range(options.images):
            extractor.features(pixels, text, str(number))
        synchronize(device)
        seconds = (time.perf_counter() - start) / options.images
        tokens = (width // loaded.stride) * (height // loaded.stride) + TEXT_TOKENS
        channels = loaded.channels
        work = s.ensemble_size * deepest * (tokens * 24 * channels**2 + 4 * tokens**2 * channels)
        row = f"{1 / seconds:.2f} images/s, {work / seconds / 1e12:.2f} TFLOP/s, **{work / seconds / peak:.0%}** of it"
        row += f"; the published way runs all blocks: {57 / deepest:.2f} times the arithmetic"
        if device == "cuda":
            row += f"; peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        rows.append((f"{case.name}: {width}x{height}, k = {deepest}, {s.ensemble_size} noise samples", row))
        del model, extractor
    show(f"Extraction on a GPU ({name})", rows)


if __name__ == "__main__":
    main()
