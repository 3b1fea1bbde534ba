"""Fit the encoder of the VAE and train its decoder.

Run `python -m miniature.train_autoencoder --photographs FOLDER --output FOLDER`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from tqdm import tqdm

from miniature import autoencoder, photographs, scenes
from miniature.checkpoints import load_checkpoint, save_checkpoint


def main() -> None:
    """Train, or resume from the last checkpoint, and write the VAE as a diffusers folder.

    The folder `encoder-only` exists at once: the transformer can be trained with it while the decoder is trained.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the trained VAE")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=4, help="pairs of views in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    photographs.check(arguments.photographs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    backgrounds = photographs.load(arguments.photographs, "photograph")
    objects = photographs.load(arguments.photographs, "object")

    torch.manual_seed(arguments.seed)
    vae = autoencoder.build(_views(backgrounds, objects, 100, 256, np.random.default_rng([arguments.seed, 2])))
    vae.save_pretrained(arguments.output / "encoder-only")
    vae = vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=arguments.rate, betas=(0.9, 0.99), weight_decay=0.0)
    path = arguments.output / "checkpoint.pt"
    state = load_checkpoint(path)
    start = 0
    if state:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    log = arguments.output / "log.jsonl"
    saved = time.monotonic()
    for step in (progress := tqdm(range(start, arguments.steps), initial=start, total=arguments.steps)):
        rng = np.random.default_rng([arguments.seed, 1, step])
        side = 192 if step < 0.85 * arguments.steps else 256
        images = _views(backgrounds, objects, arguments.batch, side, rng).contiguous(memory_format=torch.channels_last)
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * step / arguments.steps)) + 0.005
        optimizer.param_groups[0]["lr"] = float(arguments.rate * rate)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample(generator)
        with torch.autocast("cpu", torch.bfloat16):
            total, squared = autoencoder.loss(vae, images, latents)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        psnr = 10 * np.log10(4 / squared.item())
        progress.set_postfix(loss=f"{total.item():.4f}", psnr=f"{psnr:.1f}")
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": total.item(), "psnr": psnr}) + "\n")
        if time.monotonic() - saved > 120 or step + 1 == arguments.steps:
            save_checkpoint(path, {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
            saved = time.monotonic()
    vae.save_pretrained(arguments.output / "vae")


def _views(
    backgrounds: list[photographs.Picture], objects: list[photographs.Picture], pairs: int, side: int, rng: Generator
) -> Tensor:
    """Return both views of some pairs, in -1..1, float32 [2 * pairs, 3, side, side]."""
    views = [scenes.pair(backgrounds, objects, side, side, rng).images for _ in range(pairs)]
    return torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2).float() / 127.5 - 1


if __name__ == "__main__":
    main()
