"""The miniature's VAE: 16 latent channels at an eighth of the resolution.

The encoder is a principal component transform of 8x8 pixels, fitted to photographs, three levels of 2x2 deep, and put
into the layers of diffusers' encoder. The decoder is trained to reconstruct photographs from it.

Group normalization would divide by each image's contrast. Therefore two channels of the encoder hold large constants
that dominate its statistics, and a third balances the mean.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

LATENT_CHANNELS = 16
NOISE = 0.05  # standard deviation of the posterior, for latents of unit variance
WIDTHS = (16, 32, 32, 32)
CONSTANT = 80.0  # magnitude of the two constant channels
SMALL = 0.05  # weight of the encoder's last normalization, so small that its activation function is nearly linear
RESERVED = 3  # channels that hold no image content: two constants and their balance
OPPONENT = ((1, 1, 1), (1, -1, 0), (1, 1, -2))  # brightness and two colour differences, before normalization


def build(images: Tensor) -> AutoencoderKL:
    """Return a new VAE with a fitted encoder and a random decoder.

    Args:
        images: Images in -1..1 that the encoder is fitted to, float32 [n, 3, h, w].
    """
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=256,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        _fit_encoder(vae.encoder, images)
        _start_decoder(vae.decoder)
    vae.encoder.requires_grad_(False)
    return vae


def _fit_encoder(encoder: nn.Module, images: Tensor) -> None:
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.zero_()
            layer.bias.zero_()
    colours = nn.functional.normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1)
    encoder.conv_in.weight[RESERVED : RESERVED + 3, :, 1, 1] = colours.float()
    encoder.conv_in.bias[:2] = torch.tensor([CONSTANT, -CONSTANT])
    values = torch.einsum("dc,nchw->ndhw", colours, images.double())
    for level, block in enumerate(encoder.down_blocks[:3]):
        n, channels, height, width = values.shape
        squares = values.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3)
        kept = min(4 * channels, WIDTHS[level] - RESERVED)
        directions = _principal(squares.flatten(0, 2))[:kept]
        conv = block.downsamplers[0].conv
        conv.bias[:2] = torch.tensor([CONSTANT, -CONSTANT])
        payload = slice(RESERVED, RESERVED + kept)
        taps = directions.view(kept, channels, 2, 2).float()
        conv.weight[payload, RESERVED : RESERVED + channels, :2, :2] = taps
        conv.weight[2, RESERVED : RESERVED + channels, :2, :2] = -taps.sum(0)
        values = torch.einsum("kd,nhwd->nkhw", directions, squares)
    for block in encoder.down_blocks:
        shortcut = block.resnets[0].conv_shortcut
        if shortcut is not None:
            shortcut.weight[: shortcut.in_channels, :, 0, 0] = torch.eye(shortcut.in_channels)
    cells = values.permute(0, 2, 3, 1).flatten(0, 2)
    mean = cells.mean(0)
    directions = _principal(cells)[:LATENT_CHANNELS]
    deviation = ((cells - mean) @ directions.T).std(0)
    # Half of a small value leaves the activation function.
    last = WIDTHS[-1]
    gain = 2 * CONSTANT * (2 / last) ** 0.5 / SMALL
    encoder.conv_norm_out.weight.fill_(SMALL)
    encoder.conv_norm_out.bias.zero_()
    whiten = directions / deviation[:, None]
    out = encoder.conv_out
    out.weight[:LATENT_CHANNELS, RESERVED : RESERVED + cells.shape[1], 1, 1] = (whiten * gain).float()
    out.bias[:LATENT_CHANNELS] = -(whiten @ mean).float()
    out.bias[LATENT_CHANNELS:] = 2 * torch.tensor(NOISE).log()


def _principal(samples: Tensor) -> Tensor:
    """Return the principal directions of samples [n, d], most important first, float64 [d, d].

    The directions are taken around zero, so that the image's mean stays in the first ones.
    """
    _, vectors = torch.linalg.eigh(samples.T @ samples / len(samples))
    return vectors.flip(1).T


def _start_decoder(decoder: nn.Module) -> None:
    """Reserve constant channels in the decoder, too, and let its residual branches start small."""
    decoder.conv_in.bias[:2] = torch.tensor([CONSTANT, -CONSTANT]) / 20
    for block in (*decoder.mid_block.resnets, *(r for b in decoder.up_blocks for r in b.resnets)):
        block.conv2.weight.mul_(0.5)


def loss(vae: AutoencoderKL, images: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training loss of the decoder and the mean squared error of the reconstruction.

    Args:
        vae: The model.
        images: Images in -1..1, float32 [n, 3, h, w].
        latents: Their latents with noise, float32 [n, 16, h / 8, w / 8].
    """
    difference = vae.decoder(latents).float() - images
    edges = (difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()) / 2
    squared = difference.square().mean()
    return difference.abs().mean() + 2 * squared + edges, squared.detach()


class LinearEncoder(nn.Module):
    """The encoder's posterior mean as one convolution, which is faster.

    Args:
        vae: The VAE.
        images: Images in -1..1 that the convolution is fitted to, float32 [n, 3, h, w].
    """

    def __init__(self, vae: AutoencoderKL, images: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
            cells = nn.functional.unfold(images, 8, stride=8).transpose(1, 2).flatten(0, 1).double()
            wanted = latents.flatten(2).transpose(1, 2).flatten(0, 1).double()
            ones = torch.cat([cells, torch.ones(len(cells), 1)], 1)
            solution = torch.linalg.lstsq(ones, wanted).solution
            self.error = float((ones @ solution - wanted).square().mean().sqrt())
        self.weight = nn.Parameter(solution[:-1].T.reshape(LATENT_CHANNELS, 3, 8, 8).float(), requires_grad=False)
        self.bias = nn.Parameter(solution[-1].float(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return latents, float32 [n, 16, h / 8, w / 8]."""
        with torch.autocast("cpu", enabled=False):
            return nn.functional.conv2d(images, self.weight, self.bias, stride=8)
