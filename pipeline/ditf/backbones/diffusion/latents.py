"""Encode images into noisy latents. An image is encoded once for all its noise samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from ditf.backbones.loading import load_component
from ditf.errors import UserError

KINDS = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLQwenImage", "AutoencoderDC")


@dataclass(frozen=True)
class Posterior:
    """The autoencoder's posterior for one image.

    Attributes:
        mean: Mean, float32 [C, height, width].
        std: Standard deviation, float32 [C, height, width].
    """

    mean: Tensor
    std: Tensor


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """Use one thread on a CPU, because the rounding of the VAE depends on the number of threads."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class LatentEncoder:
    """Encoder of images into noisy latents.

    Args:
        vae: Autoencoder of one of `KINDS`.
        dtype: Type of the computation.
        device: Device of the autoencoder.

    Attributes:
        stride: Pixels that a latent covers along each side.
    """

    def __init__(self, vae: Any, dtype: torch.dtype, device: str) -> None:
        self.vae, self.dtype, self.device = vae, dtype, device
        self.kind, config = type(vae).__name__, vae.config
        levels = config.get("encoder_block_out_channels") or config.get("block_out_channels")
        self.stride: int = 2 ** (len(levels) - 1 if levels else len(config["temperal_downsample"]))
        if self.kind == "AutoencoderKLFlux2":
            self.stride *= 2  # 2x2 latents are standardized together

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, device: str, tiling: bool = False) -> LatentEncoder:
        """Load an autoencoder of diffusers.

        Args:
            folder: Folder of the autoencoder.
            dtype: Type of the computation.
            device: A torch device.
            tiling: Encode large images in tiles.

        Raises:
            UserError: The autoencoder cannot be loaded, or has another class than `KINDS`.
        """
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / 'config.json'}: not a readable configuration ({error})") from None
        if kind not in KINDS:
            raise UserError(f"{folder / 'config.json'}: _class_name is {kind!r}, not one of {', '.join(KINDS)}")
        vae = load_component(getattr(diffusers, kind), folder, dtype=dtype).to(device)
        if tiling:
            vae.enable_tiling()
        return cls(vae, dtype, device)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Posterior:
        """Encode one image.

        Args:
            pixels: RGB in -1..1, float32 [3, height, width]. The sides are multiples of the model's stride.
        """
        image = pixels[None].to(self.device, self.dtype)
        with _one_thread(self.device):
            if self.kind == "AutoencoderDC":  # has no posterior
                mean = self.vae.encode(image).latent[0]
                return Posterior(mean.float(), torch.zeros_like(mean, dtype=torch.float32))
            video = self.kind == "AutoencoderKLQwenImage"
            moments = self.vae.encode(image[:, :, None] if video else image).latent_dist
        mean, std = (x[0, :, 0] if video else x[0] for x in (moments.mean, moments.std))
        if self.kind == "AutoencoderKLFlux2":
            mean, std = patches(mean), patches(std)
        return Posterior(mean.float(), std.float())

    def noisy(self, posterior: Posterior, noise: Tensor, signal: float, sigma: float) -> Tensor:
        """Return noisy latents `z_t = signal z + sigma eps`, float32 [n, C, height, width].

        Args:
            posterior: Posterior of the image. z is sampled from it and standardized.
            noise: Standard normal noise for z and for eps, [n, 2, C, height, width].
            signal: Factor of the signal; 1 - t/1000 for rectified flow.
            sigma: Factor of the noise; t/1000 for rectified flow.
        """
        noise = noise.to(self.device)
        z = posterior.mean + posterior.std * noise[:, 0]
        shift, scale = self._standardization()
        return signal * ((z - shift) * scale) + sigma * noise[:, 1]

    def _standardization(self) -> tuple[Any, Any]:
        """Return the shift that is subtracted from z, and the scale that multiplies the difference."""
        config = self.vae.config
        if self.kind == "AutoencoderKLFlux2":
            norm = self.vae.bn
            mean, std = norm.running_mean, torch.sqrt(norm.running_var + config["batch_norm_eps"])
            return mean.float()[:, None, None], 1 / std.float()[:, None, None]
        if self.kind == "AutoencoderKLQwenImage":
            mean, std = (torch.tensor(config[f"latents_{name}"], device=self.device) for name in ("mean", "std"))
            return mean[:, None, None], 1 / std[:, None, None]
        return config.get("shift_factor") or 0.0, config["scaling_factor"]


def patches(latents: Tensor) -> Tensor:
    """Turn squares of 2x2 latents into channels: [..., C, h, w] to [..., C * 4, h/2, w/2]."""
    *_, h, w = latents.shape
    split = latents.unflatten(-1, (w // 2, 2)).unflatten(-3, (h // 2, 2))
    return split.movedim((-3, -1), (-4, -3)).flatten(-5, -3)


def tokens(latents: Tensor) -> Tensor:
    """Turn latents into a row-major sequence: [n, C, h, w] to [n, h * w, C]."""
    return latents.flatten(2).transpose(1, 2)


def positions(h: int, w: int, columns: int = 3) -> Tensor:
    """Return the position ids of image tokens in row-major order.

    Args:
        h: Rows of tokens.
        w: Columns of tokens.
        columns: Length of a position id.

    Returns:
        Position ids [h * w, columns]: 0, the row, the column, then zeros.
    """
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    ids = torch.zeros(h * w, columns)
    ids[:, 1], ids[:, 2] = row.flatten(), column.flatten()
    return ids
