"""FLUX.1-dev at full size on a GPU, by each option that changes memory or speed: images/s, memory, arithmetic reached.

Run it where a GPU is at hand; at small size it runs on a CPU.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from huggingface_hub import save_torch_state_dict

from benchmarks.extraction import random_vae
from benchmarks.report import gpu_name, machine, show
from ditf.backbones.families.flux import Flux
from ditf.backbones.networks.flux import TEXT_TOKENS, LoadedFlux
from ditf.backbones.source import LoadingSettings, Model
from ditf.data.images import model_size
from ditf.features.extractor import Extractor
from ditf.types import Rule

DEV = dict(Flux.published["black-forest-labs/FLUX.1-dev"].config)
SMALL = DEV | {"attention_head_dim": 32, "num_attention_heads": 2, "axes_dims_rope": (8, 12, 12)}
DEVICE, DTYPE = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """A benchmark's settings and the size of its images, and how the model is loaded."""

    name: str
    settings: Flux
    rule: Rule
    img_size: int
    image: tuple[int, int]
    batch_sizes: tuple[int, ...]
    loadings: tuple[LoadingSettings, ...]


PLAIN, COMPILED, TILED = LoadingSettings(), LoadingSettings(compile=True), LoadingSettings(tiling=True)
SMALLER = (LoadingSettings(offload="blocks"), LoadingSettings(quantize="int8"), LoadingSettings(quantize="nf4"))
CASES = (
    Case("SPair-71k", Flux(timestep=260, blocks=[28]), "longer", 640, (500, 375), (8,), (PLAIN, *SMALLER, COMPILED)),
    Case("DAVIS", Flux(timestep=90, blocks=[24]), "shorter", 960, (854, 480), (8, 2), (PLAIN, TILED)),
)


def write_random(folder: Path, config: dict[str, Any], small: bool) -> None:
    """FLUX's transformer, as far as its deepest captured block, and its VAE, with small random weights."""
    layout = LoadedFlux.layout
    model = layout.skeleton(config)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    needed = layout.needed(model, max(case.settings.blocks[0] for case in CASES))
    state = {n: (0.02 * torch.randn(shapes[n], device=DEVICE)).to(torch.bfloat16).cpu() for n in needed}
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps({"_class_name": layout.kind} | config))
    name = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(state, folder / "transformer", filename_pattern=name, max_shard_size="5GB")
    vae: AutoencoderKL = random_vae((32,) * 4 if small else (128, 256, 512, 512))
    vae.to(torch.bfloat16).save_pretrained(folder / "vae")


def matmul_rate(size: int) -> float:
    """Floating-point operations per second of a large square matrix product."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=DTYPE) for _ in range(2))
    seconds = []
    for _ in range(5):
        synchronize()
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        synchronize()
        seconds.append((time.perf_counter() - start) / 4)
    return 2 * size**3 / min(seconds)


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def held() -> float:
    """GiB that are held on the GPU; forgets the most that were."""
    if DEVICE != "cuda":
        return 0.0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / GIB


def peak() -> float:
    """The most GiB that were held on the GPU since `held` was asked."""
    return torch.cuda.max_memory_allocated() / GIB if DEVICE == "cuda" else 0.0


def measure(case: Case, loading: LoadingSettings, folder: Path, images: int, best: float) -> Iterator[tuple[str, str]]:
    """Load the model, and extract features of a random image some times.

    Args:
        case: the benchmark. loading: how the model is loaded, from `folder`.
        images: how often. best: operations per second of a matrix product.
    """
    s = case.settings
    options = ", ".join(f"{name}: {value}" for name, value in loading.model_dump(exclude_defaults=True).items())
    held()
    start = time.perf_counter()
    loaded = s.load(Model("flux", str(folder), "main", "", loading=loading), DTYPE, DEVICE)
    synchronize()
    seconds = time.perf_counter() - start
    width, height = model_size(case.rule, case.img_size, *case.image, loaded.stride)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    yield f"**{case.name}, {width}x{height}, k = {s.blocks[0]}, {options.lower() or 'no option'}**", ""
    yield "loading", f"{seconds:.1f} s, peak {peak():.1f} GiB, then held {held():.1f} GiB"
    config = loaded.model.config
    text = {"prompt_embeds": torch.randn(TEXT_TOKENS, config.joint_attention_dim)}
    text["pooled"] = torch.randn(config.pooled_projection_dim)
    loaded.encode(torch.zeros(3, height, width))
    yield "the VAE", f"peak {peak():.1f} GiB"
    tokens = (width // loaded.stride) * (height // loaded.stride) + TEXT_TOKENS
    work = s.ensemble_size * s.blocks[0] * (tokens * 24 * loaded.channels**2 + 4 * tokens**2 * loaded.channels)
    for size in case.batch_sizes:
        extractor = Extractor(loaded, s, batch_size=size)
        held()
        start = time.perf_counter()
        extractor.features(pixels, text, "warm")
        synchronize()
        first, start = time.perf_counter() - start, time.perf_counter()
        for number in range(images):
            extractor.features(pixels, text, str(number))
        synchronize()
        seconds = (time.perf_counter() - start) / images
        row = f"{1 / seconds:.2f} images/s, {work / seconds / 1e12:.2f} TFLOP/s, **{work / seconds / best:.0%}** of it"
        row += f"; peak {peak():.1f} GiB; first image {first:.1f} s"
        yield f"{size} noise samples per forward pass", row


def smaller(case: Case) -> Case:
    """A case that a CPU runs in seconds."""
    settings = case.settings.model_copy(update={"ensemble_size": 2})
    return replace(case, settings=settings, img_size=64, loadings=case.loadings[:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="FLUX.1-dev's; default: random weights, in a temporary folder")
    parser.add_argument("--small", action="store_true", help="a small model, to try this without a GPU")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.small:
        parser.error("no GPU here; --small runs a small model on the CPU")

    def rows(folder: Path) -> Iterator[tuple[str, str]]:
        best = matmul_rate(1024 if options.small else 8192)
        yield "matrix product", f"{best / 1e12:.2f} TFLOP/s in {str(DTYPE).removeprefix('torch.')}"
        for case in map(smaller, CASES) if options.small else CASES:
            for loading in case.loadings:
                yield from measure(case, loading, folder, options.images, best)

    with tempfile.TemporaryDirectory(prefix="ditf-") as temporary:
        folder = options.folder or Path(temporary)
        if not options.folder:
            write_random(folder, SMALL if options.small else DEV, options.small)
        show(f"Extraction on a GPU ({gpu_name() if DEVICE == 'cuda' else machine()})", rows(folder))


if __name__ == "__main__":
    main()
