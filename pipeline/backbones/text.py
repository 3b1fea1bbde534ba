"""Prompts to embeddings: T5-XXL without attention mask, and the pooled CLIP-L vector, as FLUX takes them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from pipeline.backbones.flux import Text
from pipeline.backbones.loading import load_component
from pipeline.errors import UserError

MAX_T5_TOKENS = 512


class TextEncoder:
    """Both text encoders of a model, on `device`. component: gives the folder of a part, such as "tokenizer"."""

    def __init__(self, component: Callable[[str], Path], dtype: torch.dtype, device: str) -> None:
        self._clip_words = _tokenizer(component("tokenizer"))
        self._t5_words = _tokenizer(component("tokenizer_2"))
        self._clip = load_component(CLIPTextModel, component("text_encoder"), dtype=dtype).to(device)
        self._t5 = load_component(T5EncoderModel, component("text_encoder_2"), dtype=dtype).to(device)
        self._device = device

    @torch.inference_mode()
    def encode(self, prompts: Iterable[str]) -> Iterator[Text]:
        """Encode prompts one at a time; each result is on the CPU in the model's dtype."""
        t5_length = min(MAX_T5_TOKENS, self._t5_words.model_max_length)
        clip_length = min(self._clip_words.model_max_length, self._clip.config.max_position_embeddings)
        for prompt in prompts:
            t5 = self._t5(self._ids(self._t5_words, prompt, t5_length)).last_hidden_state[0]
            clip = self._clip(self._ids(self._clip_words, prompt, clip_length)).pooler_output[0]
            yield Text(t5.cpu(), clip.cpu())

    def _ids(self, words: PreTrainedTokenizerBase, prompt: str, length: int) -> torch.Tensor:
        ids: torch.Tensor = words(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return ids.to(self._device)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {' '.join(str(error).split())}") from None
