"""A tiny FLUX in a diffusers folder like the real one: random, of full depth, made from a seed.

Two massive channels are planted in its residual stream, and the captured blocks' AdaLN damps them, as in FLUX.
So its results show that the pipeline works, not how well FLUX sees.
"""

import json
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

HEADS, HEAD_DIM = 4, 16
TEXT_DIM, POOLED_DIM = 32, 24
T5_TOKENS, CLIP_TOKENS = 32, 32
MASSIVE_CHANNELS = (11, 42)
MASSIVE_VALUE = 120.0
MASSIVE_SPREAD = 30.0  # their standard deviation over tokens
LOG_VARIANCE = -6.0  # of the VAE's posterior
DAMPING = -0.9  # added to the massive channels' AdaLN scale, so that 1 + scale is about 0.1


def build(folder: Path, seed: int) -> None:
    """Write the model into `folder`: transformer, VAE, both text encoders and both tokenizers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _transformer().save_pretrained(folder / "transformer")
        _vae().save_pretrained(folder / "vae")
        _t5().save_pretrained(folder / "text_encoder_2")
        _clip().save_pretrained(folder / "text_encoder")
    t5_words = T5Tokenizer(vocab=_t5_vocabulary(), extra_ids=0, model_max_length=T5_TOKENS)
    t5_words.save_pretrained(folder / "tokenizer_2")
    clip_words = CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=CLIP_TOKENS)
    clip_words.save_pretrained(folder / "tokenizer")
    parts = {
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
    }
    index = json.dumps({"_class_name": "FluxPipeline", **parts}, indent=2)
    (folder / "model_index.json").write_text(index + "\n", encoding="utf-8")


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


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(_t5_vocabulary()),
            d_model=TEXT_DIM,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _clip() -> CLIPTextModel:
    vocabulary = _clip_vocabulary()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=POOLED_DIM,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_TOKENS,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary["<|endoftext|>"],
        )
    )


def _t5_vocabulary() -> list[tuple[str, float]]:
    """A unigram vocabulary of single characters, with T5's special tokens first."""
    characters = ["\u2581", *map(chr, range(33, 127))]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in characters)]


def _clip_vocabulary() -> dict[str, int]:
    """A byte-level vocabulary without merges: bytes, bytes that end a word, and CLIP's special tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}
