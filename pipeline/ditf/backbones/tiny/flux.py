"""A tiny FLUX in a diffusers folder like the real one: random, of full depth, made from a seed.

Two massive channels are planted in its residual stream, and the captured blocks' AdaLN damps them, as in FLUX.
So its results show that the pipeline works, not how well FLUX sees.
"""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import nn

from ditf.backbones.tiny.components import clip, clip_tokenizer, save, seeded, t5, t5_tokenizer

HEADS, HEAD_DIM = 4, 16
TEXT_DIM, POOLED_DIM = 32, 24
TOKENS = 32
MASSIVE_CHANNELS = (11, 42)
MASSIVE_VALUE = 120.0
MASSIVE_SPREAD = 30.0  # their standard deviation over tokens
LOG_VARIANCE = -6.0  # of the VAE's posterior
DAMPING = -0.9  # added to the massive channels' AdaLN scale, so that 1 + scale is about 0.1


@seeded
def flux(folder: Path) -> None:
    """FLUX.1-dev: 19 double and 38 single blocks."""
    parts = {"transformer": _transformer(), "vae": _vae(), "text_encoder_2": t5(TEXT_DIM)}
    parts |= {"text_encoder": clip(POOLED_DIM, TOKENS), "tokenizer": clip_tokenizer(TOKENS)}
    parts |= {"tokenizer_2": t5_tokenizer(TOKENS), "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    save(folder, "FluxPipeline", parts)


def _transformer() -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    width = model.inner_dim
    with torch.no_grad():
        # Small updates leave the image's own content in the residual stream, as a trained model does.
        double, single = model.transformer_blocks, model.single_transformer_blocks
        for norm in (*(b.norm1 for b in double), *(b.norm1_context for b in double), *(b.norm for b in single)):
            norm.linear.weight.mul_(0.2)
            norm.linear.bias.mul_(0.2)
        for norm in (*(b.norm1 for b in double), *(b.norm for b in single)):
            for channel in MASSIVE_CHANNELS:
                norm.linear.bias[width + channel] += DAMPING
        nn.init.orthogonal_(model.x_embedder.weight)
        model.x_embedder.bias.zero_()
        for channel, sign in zip(MASSIVE_CHANNELS, (1, -1), strict=True):
            model.x_embedder.weight[channel] *= MASSIVE_SPREAD / model.x_embedder.weight[channel].norm()
            model.x_embedder.bias[channel] = sign * MASSIVE_VALUE
    return model


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=256,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    # Random mixtures of blurred channels: unlike plain noise kernels, they hardly change when an image is bent.
    blur = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    for layer in vae.encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            mixture = torch.randn(layer.weight.shape[:2]) * layer.in_channels**-0.5
            layer.weight.data = mixture[:, :, None, None] * blur
    # Latents of unit variance and a narrow posterior, as training would give; measured on smooth noise.
    out = vae.encoder.conv_out
    with torch.no_grad():
        smooth = nn.functional.interpolate(torch.randn(8, 3, 32, 32), scale_factor=8, mode="bicubic")
        mean = vae.encode(smooth.clamp(-1, 1)).latent_dist.mean
        deviation, centre = torch.std_mean(mean, dim=(0, 2, 3))
        gain = 1 / (vae.config.scaling_factor * deviation)
        channels = vae.config.latent_channels
        out.weight[:channels] *= gain[:, None, None, None]
        out.bias[:channels] = (out.bias[:channels] - centre) * gain + vae.config.shift_factor
        out.weight[channels:] = 0
        out.bias[channels:] = LOG_VARIANCE
    return vae
