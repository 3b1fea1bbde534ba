"""Components of tiny random models: autoencoders, text encoders and their tokenizers."""

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

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<bos>", "<eos>", "<unk>")


def save(folder: Path, pipeline: str, parts: Mapping[str, Any]) -> None:
    """Write the components of a pipeline and its index."""
    index: dict[str, Any] = {"_class_name": pipeline}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def seeded(build: Callable[[Path], None]) -> Callable[[Path, int], None]:
    """A function that builds a model into a folder, from a seed."""

    @wraps(build)
    def run(folder: Path, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            build(folder)

    return run


def kl(channels: int, **config: float) -> diffusers.AutoencoderKL:
    """A VAE of 8 pixels a latent."""
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
    """A scheduler whose noise is that of a published model."""
    return diffusers.DDPMScheduler(beta_schedule=schedule, beta_start=start, beta_end=end)


def t5(width: int) -> transformers.T5EncoderModel:
    """A T5 encoder over single characters."""
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
    """A CLIP text encoder over single bytes; with a projection of its pooled vector where that has a width."""
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
    """Of `t5`."""
    return transformers.T5Tokenizer(vocab=t5_vocabulary(), extra_ids=0, model_max_length=tokens)


def clip_tokenizer(tokens: int) -> transformers.CLIPTokenizer:
    """Of `clip`."""
    return transformers.CLIPTokenizer(vocab=clip_vocabulary(), merges=[], model_max_length=tokens)


def chat_tokenizer() -> transformers.Qwen2Tokenizer:
    """Of a Qwen language model, over single bytes."""
    marks = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    tokenizer = transformers.Qwen2Tokenizer(vocab=characters(), merges=[], model_max_length=2048, **marks)
    tokenizer.chat_template = CHAT
    return tokenizer


def characters() -> dict[str, int]:
    """A byte-level vocabulary without merges, after the marks of chats and texts."""
    return {word: number for number, word in enumerate((*MARKS, *sorted(ByteLevel.alphabet())))}


def t5_vocabulary() -> list[tuple[str, float]]:
    """A unigram vocabulary of single characters, with T5's special tokens first."""
    printable = ["\u2581", *map(chr, range(33, 127))]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in printable)]


def clip_vocabulary() -> dict[str, int]:
    """A byte-level vocabulary without merges: bytes, bytes that end a word, and CLIP's special tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}
