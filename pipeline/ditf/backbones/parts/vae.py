"""FLUX's VAE: one encoding per image, from which every noise sample is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from ditf.backbones.parts.loading import load_component


@dataclass(frozen=True)
class Posterior:
    """The VAE's posterior of one image: mean and standard deviation, each [16, height / 8, width / 8], float32."""

    mean: Tensor
    std: Tensor


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """On a CPU, one thread: the VAE alone rounds otherwise with another number, and features would depend on it."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class LatentEncoder:
    """Images to noisy latents."""

    def __init__(self, vae: AutoencoderKL, dtype: torch.dtype, device: str) -> None:
        self.vae, self.dtype, self.device = vae, dtype, device

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, device: str) -> "LatentEncoder":
        """Read the `vae/` of a diffusers folder, in safetensors. Raises `UserError` where that fails."""
        return cls(load_component(AutoencoderKL, folder, dtype=dtype).to(device), dtype, device)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Posterior:
        """Encode one image, [3, height, width] in -1..1; both sides are multiples of 16."""
        with _one_thread(self.device):
            moments = self.vae.encode(pixels[None].to(self.device, self.dtype)).latent_dist
        return Posterior(moments.mean[0].float(), moments.std[0].float())

    def noisy(self, posterior: Posterior, noise: Tensor, timestep: float) -> Tensor:
        """Noisy latents `z_t = (1 - t/1000) z + (t/1000) eps`, [n, 16, height / 8, width / 8], float32.

        Args:
            posterior: of the image; z is sampled from it, then shifted and scaled as the VAE says.
            noise: standard normal, for z and for eps, [n, 2, 16, height / 8, width / 8].
            timestep: t, in 0..1000.
        """
        noise = noise.to(self.device)
        z = posterior.mean + posterior.std * noise[:, 0]
        z = (z - self.vae.config.shift_factor) * self.vae.config.scaling_factor
        sigma = timestep / 1000
        return (1 - sigma) * z + sigma * noise[:, 1]
