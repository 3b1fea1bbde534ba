"""Extraction on the CPU with a random FLUX of full depth and medium width, beside the published way."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors import safe_open

from benchmarks.report import machine, show, timed
from ditf.backbones import tiny
from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import LatentEncoder, patches, tokens
from ditf.backbones.families.flux import Flux
from ditf.backbones.networks.flux import LoadedFlux
from ditf.backbones.source import Model
from ditf.features.extractor import Extractor

VAE_CHANNELS = (32, 64, 128, 128)


def make_model(folder: Path, heads: int) -> None:
    """A FLUX folder of `heads` heads of 64 channels, 19 + 38 blocks, with a larger VAE than the tiny one's."""
    tiny.flux(folder, 0)
    torch.manual_seed(0)
    config = {**FluxTransformer2DModel.load_config(folder / "transformer"), "num_attention_heads": heads}
    config |= {"attention_head_dim": 64, "axes_dims_rope": (16, 24, 24)}
    for part in ("transformer", "vae"):
        shutil.rmtree(folder / part)
    FluxTransformer2DModel.from_config(config).save_pretrained(folder / "transformer")
    random_vae(VAE_CHANNELS).save_pretrained(folder / "vae")


def random_vae(channels: tuple[int, ...]) -> AutoencoderKL:
    """A random VAE with FLUX's latents; FLUX's own has 128, 256, 512 and 512 channels."""
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=2,
        latent_channels=16,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )


@contextmanager
def clocked(parts: dict[str, float], kind: Any, method: str, name: str) -> Iterator[None]:
    """Add up the time spent in a method, under `name`."""
    original = getattr(kind, method)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            parts[name] = parts.get(name, 0) + time.perf_counter() - start

    with patch.object(kind, method, wrapper):  # which leaves an inherited method inherited
        yield


def published_image(folder: Path, pixels: torch.Tensor, prompt: str, s: Flux, models: dict[str, Any]) -> torch.Tensor:
    """One image as the released script does it: text anew, every noise sample through the VAE, all blocks run."""
    (text,) = s.encode_prompts(Model("flux", str(folder), "main", ""), [prompt], torch.float32, "cpu")
    batch = pixels.expand(s.ensemble_size, *pixels.shape)
    latents = (models["vae"].encode(batch).latent_dist.sample() - 0.1159) * 0.3611
    sigma = s.timestep / 1000
    latents = (1 - sigma) * latents + sigma * torch.randn_like(latents)
    n, _, h, w = latents.shape
    y, x = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
    models["transformer"](
        hidden_states=tokens(patches(latents)),
        encoder_hidden_states=text["prompt_embeds"].expand(n, *text["prompt_embeds"].shape),
        pooled_projections=text["pooled"].expand(n, *text["pooled"].shape),
        timestep=torch.full((n,), sigma),
        guidance=torch.full((n,), s.guidance),
        img_ids=torch.stack([torch.zeros_like(y), y, x], -1).reshape(-1, 3).float(),
        txt_ids=torch.zeros(len(text["prompt_embeds"]), 3),
    )
    found: torch.Tensor = models["seen"].pop().mean(0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=8, help="of 64 channels")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--samples", type=int, default=8, help="of noise")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    s = Flux(timestep=260, blocks=[28], ensemble_size=options.samples)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (options.size * 3 // 4, options.size, 3), np.uint8) for _ in range(options.images)]
    prompts = [f"a photo number {i % 2}" for i in range(options.images)]
    try:
        make_model(folder, options.heads)
        parts: dict[str, float] = {}

        def ours() -> tuple[LoadedDiffusion, int]:
            start = time.perf_counter()
            distinct = sorted(set(prompts))
            encoded = s.encode_prompts(Model("flux", str(folder), "main", ""), distinct, torch.float32, "cpu")
            texts = dict(zip(distinct, encoded, strict=True))
            parts["text"] = time.perf_counter() - start
            start = time.perf_counter()
            loaded = s.load(Model("flux", str(folder), "main", ""), torch.float32, "cpu")
            extractor = Extractor(loaded, s)
            parts["loading"] = time.perf_counter() - start
            with clocked(parts, LatentEncoder, "encode", "VAE"), clocked(parts, LoadedFlux, "features", "blocks"):
                for number, (pixels, prompt) in enumerate(zip(images, prompts, strict=True)):
                    extractor.features(pixels, texts[prompt], str(number))
            return loaded, len(texts)

        def published() -> None:
            models: dict[str, Any] = {"seen": []}
            models["transformer"] = FluxTransformer2DModel.from_pretrained(folder / "transformer")
            models["vae"] = AutoencoderKL.from_pretrained(folder / "vae")
            block = models["transformer"].single_transformer_blocks[9]
            block.register_forward_pre_hook(
                lambda _m, _a, kwargs: models["seen"].append(kwargs["hidden_states"]), with_kwargs=True
            )
            with torch.inference_mode():
                for pixels, prompt in zip(images, prompts, strict=True):
                    image = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
                    published_image(folder, image, prompt, s, models)

        fast, (loaded, encoded) = timed(ours)
        slow, _ = timed(published)
        with safe_open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as file:
            sizes = {name: int(np.prod(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
        read = sum(sizes[name] for name in loaded.tensors_read) / sum(sizes.values())
        count = len(images)
        show(
            f"Extraction on a CPU ({machine()})",
            [
                (
                    "width, blocks, image, noise samples",
                    f"{64 * options.heads}, 19 + 38, {options.size} px, {options.samples}",
                ),
                ("images per second, loading included", f"{count / fast:.2f}"),
                ("the published way", f"{count / slow:.2f}"),
                ("**ratio**", f"**{slow / fast:.2f}**"),
                ("time per part", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())),
                ("VAE encodings per image; published", f"1; {options.samples}"),
                ("T5 passes; published", f"{encoded} for {count} images; {count}"),
                ("blocks run; published", "28; 57"),
                ("bytes of the transformer read; published", f"{read:.1%}; 100%"),
            ],
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
