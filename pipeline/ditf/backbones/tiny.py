"""Tiny random models, one per family, in folders like the published ones.

Each function with the name of a family writes a model of the real classes and depths with small widths, from a seed.
They show that the pipeline works, and nothing about how well a family does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<bos>", "<eos>", "<unk>")
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
LANGUAGE = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, **LAYERS}
# FLUX gets two massive channels in its residual stream, which the AdaLN of its blocks damps, as in the real model.
FLUX_HEADS, FLUX_HEAD_DIM = 4, 16
FLUX_TEXT_DIM, FLUX_POOLED_DIM = 32, 24
FLUX_TOKENS = 32
MASSIVE_CHANNELS = (11, 42)
MASSIVE_VALUE = 120.0
MASSIVE_SPREAD = 30.0  # their standard deviation over tokens
LOG_VARIANCE = -6.0  # of the VAE's posterior
DAMPING = -0.9  # added to the massive channels' AdaLN scale, so that 1 + scale is about 0.1


def seeded(build: Callable[[Path], None]) -> Callable[[Path, int], None]:
    """Let a function that writes a random model into a folder take a seed."""

    @wraps(build)
    def run(folder: Path, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            build(folder)

    return run


@seeded
def flux(folder: Path) -> None:
    """Write a tiny FLUX.1-dev: 19 double and 38 single blocks."""
    parts = {"transformer": _flux_transformer(), "vae": _flux_vae(), "text_encoder_2": t5(FLUX_TEXT_DIM)}
    parts |= {"text_encoder": clip(FLUX_POOLED_DIM, FLUX_TOKENS), "tokenizer": clip_tokenizer(FLUX_TOKENS)}
    parts |= {
        "tokenizer_2": t5_tokenizer(FLUX_TOKENS),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    save(folder, "FluxPipeline", parts)


@seeded
def sd3(folder: Path) -> None:
    """Write a tiny Stable Diffusion 3.5-medium: 24 blocks; the first 13 have two attentions."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        num_layers=24,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=96,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    parts = {"transformer": transformer, "vae": kl(16, scaling_factor=1.5305, shift_factor=0.0609)}
    parts |= {"text_encoder": clip(24, 77, projection=24), "text_encoder_2": clip(16, 77, projection=16)}
    parts |= {"text_encoder_3": t5(64), "tokenizer": clip_tokenizer(77), "tokenizer_2": clip_tokenizer(77)}
    parts |= {"tokenizer_3": t5_tokenizer(77), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)}
    save(folder, "StableDiffusion3Pipeline", parts)


@seeded
def pixart(folder: Path) -> None:
    """Write a tiny PixArt-alpha for 1024 pixels, which embeds the size of the image."""
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        num_layers=28,
        cross_attention_dim=48,
        sample_size=128,
        caption_channels=32,
    )
    parts = {"transformer": transformer, "vae": kl(4, scaling_factor=0.13025), "text_encoder": t5(32)}
    parts |= {"tokenizer": t5_tokenizer(120), "scheduler": ddpm("linear", 0.0001, 0.02)}
    save(folder, "PixArtAlphaPipeline", parts)


@seeded
def sana(folder: Path) -> None:
    """Write a tiny SANA with its deep-compression autoencoder of 32 pixels per latent."""
    transformer = diffusers.SanaTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=20,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=32,
    )
    widths = (8, 8, 16, 16, 32, 32)
    vae = diffusers.AutoencoderDC(
        latent_channels=32,
        attention_head_dim=8,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    config = transformers.Gemma2Config(vocab_size=len(characters()), **LANGUAGE)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": transformers.Gemma2Model(config)}
    tokenizer = transformers.GemmaTokenizer(vocab=characters(), merges=[], pad_token="<pad>", model_max_length=512)
    parts |= {"tokenizer": tokenizer, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)}
    save(folder, "SanaPipeline", parts)


@seeded
def flux2(folder: Path) -> None:
    """Write a tiny FLUX.2-klein-4B: 5 double and 20 single blocks."""
    transformer = diffusers.Flux2Transformer2DModel(
        num_layers=5,
        num_single_layers=20,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=96,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=4,
        sample_size=64,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    config = transformers.Qwen3Config(vocab_size=len(characters()), **LANGUAGE | {"num_hidden_layers": 28})
    parts = {"transformer": transformer, "vae": vae, "text_encoder": transformers.Qwen3ForCausalLM(config)}
    parts |= {"tokenizer": chat_tokenizer(), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}
    save(folder, "Flux2KleinPipeline", parts)


@seeded
def qwen_image(folder: Path) -> None:
    """Write a tiny Qwen-Image: 60 blocks, and an autoencoder for videos."""
    transformer = diffusers.QwenImageTransformer2DModel(
        num_layers=60, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, axes_dims_rope=(2, 2, 4)
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=torch.randn(16).tolist(),
        latents_std=(1 + torch.rand(16)).tolist(),
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(characters()),
            **{key: value for key, value in LANGUAGE.items() if key != "head_dim"},
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32},
    )
    encoder = transformers.Qwen2_5_VLForConditionalGeneration(config)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": encoder, "tokenizer": chat_tokenizer()}
    save(folder, "QwenImagePipeline", parts | {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler()})


@seeded
def z_image(folder: Path) -> None:
    """Write a tiny Z-Image: 30 blocks after its refiners."""
    transformer = diffusers.ZImageTransformer2DModel(
        dim=32, n_layers=30, n_heads=4, n_kv_heads=4, cap_feat_dim=32, axes_dims=[2, 2, 4], axes_lens=[512, 64, 64]
    )
    for block in transformer.layers:
        torch.nn.init.uniform_(block.attention_norm1.weight, 0.5, 1.5)
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(pad, std=0.02)
    config = transformers.Qwen3Config(vocab_size=len(characters()), **LANGUAGE)
    parts = {"transformer": transformer, "vae": kl(16, scaling_factor=0.3611, shift_factor=0.1159)}
    parts |= {"text_encoder": transformers.Qwen3Model(config), "tokenizer": chat_tokenizer()}
    save(folder, "ZImagePipeline", parts | {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)})


@seeded
def unet(folder: Path) -> None:
    """Write a tiny Stable Diffusion 2.1: four up blocks."""
    model = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=(2, 2, 4, 4),
        norm_num_groups=8,
        sample_size=32,
        use_linear_projection=True,
    )
    parts = {"unet": model, "vae": kl(4, scaling_factor=0.18215), "text_encoder": clip(32, 77)}
    parts |= {"tokenizer": clip_tokenizer(77), "scheduler": ddpm("scaled_linear", 0.00085, 0.012)}
    save(folder, "StableDiffusionPipeline", parts)


@seeded
def vit(folder: Path) -> None:
    """Write a tiny DINOv2 of 12 blocks."""
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=12, num_attention_heads=4, patch_size=14, image_size=224
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours) + "\n", encoding="utf-8")


def _flux_transformer() -> diffusers.FluxTransformer2DModel:
    model = diffusers.FluxTransformer2DModel(
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=FLUX_HEAD_DIM,
        num_attention_heads=FLUX_HEADS,
        joint_attention_dim=FLUX_TEXT_DIM,
        pooled_projection_dim=FLUX_POOLED_DIM,
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


def _flux_vae() -> diffusers.AutoencoderKL:
    vae = diffusers.AutoencoderKL(
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
    # Mix blurred channels at random. Unlike plain noise kernels, such filters hardly change when an image is warped.
    blur = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    for layer in vae.encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            mixture = torch.randn(layer.weight.shape[:2]) * layer.in_channels**-0.5
            layer.weight.data = mixture[:, :, None, None] * blur
    # Scale the latents to unit variance and make the posterior narrow, as training would; measured on smooth noise.
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


def save(folder: Path, pipeline: str, parts: Mapping[str, Any]) -> None:
    """Write the components of a pipeline and its index.

    Args:
        folder: Folder to write into.
        pipeline: Name of the pipeline's class in diffusers.
        parts: Components by name.
    """
    index: dict[str, Any] = {"_class_name": pipeline}
    for name, component in parts.items():
        component.save_pretrained(folder / name)
        index[name] = [type(component).__module__.split(".")[0], type(component).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def kl(channels: int, **config: float) -> diffusers.AutoencoderKL:
    """Return a VAE of 8 pixels per latent."""
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        **config,
    )


def ddpm(schedule: str, start: float, end: float) -> diffusers.DDPMScheduler:
    """Return a scheduler with the noise schedule of a published model.

    Args:
        schedule: Name of the schedule in diffusers, such as "linear".
        start: First value of beta.
        end: Last value of beta.
    """
    return diffusers.DDPMScheduler(beta_schedule=schedule, beta_start=start, beta_end=end)


def t5(width: int) -> transformers.T5EncoderModel:
    """Return a T5 encoder over single characters."""
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(t5_vocabulary()),
            d_model=width,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def clip(width: int, tokens: int, projection: int | None = None) -> Any:
    """Return a CLIP text encoder over single bytes.

    Args:
        width: Channels of a token.
        tokens: Longest prompt.
        projection: Width to which the pooled vector is projected; None for no projection.
    """
    vocabulary = clip_vocabulary()
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokens,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
        **({"projection_dim": projection} if projection else {}),
    )
    return transformers.CLIPTextModelWithProjection(config) if projection else transformers.CLIPTextModel(config)


def t5_tokenizer(tokens: int) -> transformers.T5Tokenizer:
    """Return the tokenizer of `t5`."""
    return transformers.T5Tokenizer(vocab=t5_vocabulary(), extra_ids=0, model_max_length=tokens)


def clip_tokenizer(tokens: int) -> transformers.CLIPTokenizer:
    """Return the tokenizer of `clip`."""
    return transformers.CLIPTokenizer(vocab=clip_vocabulary(), merges=[], model_max_length=tokens)


def chat_tokenizer() -> transformers.Qwen2Tokenizer:
    """Return the tokenizer of a Qwen language model, over single bytes."""
    marks = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    tokenizer = transformers.Qwen2Tokenizer(vocab=characters(), merges=[], model_max_length=2048, **marks)
    tokenizer.chat_template = CHAT
    return tokenizer


def characters() -> dict[str, int]:
    """Return a byte-level vocabulary without merges that begins with the special tokens."""
    return {word: number for number, word in enumerate((*MARKS, *sorted(ByteLevel.alphabet())))}


def t5_vocabulary() -> list[tuple[str, float]]:
    """Return a unigram vocabulary of single characters that begins with T5's special tokens."""
    printable = ["\u2581", *map(chr, range(33, 127))]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in printable)]


def clip_vocabulary() -> dict[str, int]:
    """Return a byte-level vocabulary without merges: bytes, bytes that end a word, and CLIP's special tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}
