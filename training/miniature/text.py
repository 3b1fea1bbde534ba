"""The miniature's text encoders, T5 and CLIP as FLUX has them, and their tokenizers."""

import re
from collections.abc import Iterable

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

WIDTH = 64
WORDS = 32  # tokens of the T5 encoder
LETTERS = 77  # tokens of the CLIP encoder
TEMPLATES = ("{}", "a photo of {}", "a photo of a {}", "a picture of {}")
COMMON = "a an the of in on at with and before behind by near photo picture image portrait close up many"


class TextEncoders(nn.Module):
    """Both text encoders with their tokenizers.

    Args:
        captions: Captions whose words the T5 tokenizer knows as single tokens.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        super().__init__()
        self.words = _word_tokenizer(captions)
        self.letters = _letter_tokenizer()
        self.t5 = transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=len(self.words),
                d_model=WIDTH,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )
        end = self.letters.eos_token_id
        self.clip = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(self.letters),
                hidden_size=WIDTH,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LETTERS,
                bos_token_id=self.letters.bos_token_id,
                eos_token_id=end,
                pad_token_id=end,
            )
        )

    def forward(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the T5 embeddings [n, words, width] and the pooled CLIP vectors [n, width] of the prompts."""
        words = self.words(prompts, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt")
        letters = self.letters(prompts, padding="max_length", max_length=LETTERS, truncation=True, return_tensors="pt")
        embeddings = self.t5(words.input_ids).last_hidden_state
        pooled = self.clip(letters.input_ids).pooler_output
        return embeddings, pooled


def _word_tokenizer(captions: Iterable[str]) -> transformers.T5Tokenizer:
    known = sorted({word for text in (*captions, COMMON) for word in re.findall(r"[a-z]+", text.lower())})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -3.0)]
    vocabulary += [(chr(code), -6.0) for code in range(33, 127)]
    vocabulary += [("\u2581" + word, -4.0) for word in known]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=WORDS)


def _letter_tokenizer() -> transformers.CLIPTokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LETTERS)


def prompt(caption: str, generator: torch.Generator) -> str:
    """Return a prompt for an image: usually its caption in a template, sometimes nothing.

    Args:
        caption: What the image shows.
        generator: Source of randomness.
    """
    draw = float(torch.rand((), generator=generator))
    if draw < 0.1:
        return ""
    if draw < 0.3:
        return "a photo of a image"
    number = int(torch.randint(len(TEMPLATES), (), generator=generator))
    return TEMPLATES[number].format(re.sub("^an? ", "", caption) if "a {}" in TEMPLATES[number] else caption)
