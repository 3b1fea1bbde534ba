"""Tiny random models, one per family, in folders like the published ones: real classes and depths, small widths.

They show that the pipeline works, and nothing about how well a family sees.
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
import transformers

from ditf.backbones.tiny.components import (
    characters,
    chat_tokenizer,
    clip,
    clip_tokenizer,
    ddpm,
    kl,
    save,
    seeded,
    t5,
    t5_tokenizer,
)
from ditf.backbones.tiny.flux import flux

__all__ = ["flux", "flux2", "pixart", "qwen_image", "sana", "sd3", "unet", "vit", "z_image"]

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
LANGUAGE = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, **LAYERS}


@seeded
def sd3(folder: Path) -> None:
    """Stable Diffusion 3.5-medium: 24 blocks, of which the first half has two attentions."""
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
    """PixArt-alpha of 1024 pixels, which embeds the image's size."""
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
    """SANA, with its deep-compression autoencoder of 32 pixels a latent."""
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
    """FLUX.2-klein of 4 billion parameters: 5 double and 20 single blocks."""
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
    """Qwen-Image: 60 blocks, and an autoencoder of videos."""
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
    """Z-Image: 30 blocks after two refiners."""
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
    """Stable Diffusion 2.1: up blocks of four widths."""
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
    """DINOv2 of 12 blocks."""
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=12, num_attention_heads=4, patch_size=14, image_size=224
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours) + "\n", encoding="utf-8")
