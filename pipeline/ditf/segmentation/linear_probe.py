"""A linear probe: batch normalization and one linear layer on tokens, trained from a store in shuffled chunks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from ditf.files import fingerprint, write_atomically

CHUNK_TOKENS = 32_768  # mixed at once
LOOKAHEAD = 2  # images read ahead

# Descriptors [n, C] of an image by its id, and the classes [n] of its tokens; those of 255 are not learned.
Read = Callable[[str], tuple[NDArray[np.float32], NDArray[np.uint8]]]


@dataclass(frozen=True)
class ProbeTraining:
    """How a probe is trained. epochs: over all images. batch: tokens per step. rate, decay: of AdamW, with a cosine
    schedule. seed: of the order and of the weights."""

    epochs: int = 10
    batch: int = 4096
    rate: float = 1e-3
    decay: float = 1e-2
    seed: int = 0


class Probe(nn.Module):
    """Logits of tokens."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.linear = nn.Linear(channels, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.linear(self.norm(tokens))
        return found


def train(
    items: Sequence[str], read: Read, channels: int, classes: int, training: ProbeTraining, checkpoint: Path, name: Any
) -> Probe:
    """Train a probe, going on at the last epoch that `checkpoint` holds.

    Args:
        items: ids of images.
        read: gives their tokens and classes; one chunk of these is held at a time.
        channels, classes: how many.
        training: how.
        checkpoint: a file that is written after each epoch.
        name: of all that decides the result; a checkpoint of another name is not used.
    """
    generator = torch.Generator().manual_seed(training.seed)
    probe = Probe(channels, classes)
    with torch.no_grad():
        probe.linear.weight.normal_(0, 0.01, generator=generator)
        probe.linear.bias.zero_()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=training.rate, weight_decay=training.decay)
    held = _Chunk(channels)
    first = _restore(checkpoint, probe, optimizer, fingerprint(name))
    with tqdm(
        desc="probe", total=training.epochs * len(items), initial=first * len(items), unit="image", delay=1
    ) as bar:
        for epoch in range(first, training.epochs):
            rate = training.rate * 0.5 * (1 + float(np.cos(np.pi * epoch / training.epochs)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            probe.train()
            for tokens, labels in _batches(items, read, training, epoch, held, bar):
                loss = nn.functional.cross_entropy(probe(tokens), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            _keep(checkpoint, probe, optimizer, fingerprint(name), epoch + 1)
    return probe.eval()


def _batches(
    items: Sequence[str], read: Read, training: ProbeTraining, epoch: int, held: _Chunk, bar: tqdm[Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of an epoch: images in an order of its own, and the tokens of a chunk of them mixed."""
    rng = np.random.default_rng([training.seed, epoch])
    order = [items[number] for number in rng.permutation(len(items))]
    count = 0
    for tokens, labels in _ahead(order, read):
        known = np.flatnonzero(labels != 255)
        if count + len(known) > len(held.labels):
            yield from _mixed(held, count, training.batch, rng)
            count = 0
            if len(known) > len(held.labels):
                held.grow(len(known))
        np.take(tokens, known, 0, out=held.tokens[count : count + len(known)])
        held.labels[count : count + len(known)] = labels[known]
        count += len(known)
        bar.update()
    yield from _mixed(held, count, training.batch, rng)


class _Chunk:
    """Tokens held to be mixed, in memory that is used again and again."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.grow(CHUNK_TOKENS)

    def grow(self, count: int) -> None:
        """Make room for `count` tokens; what was held is lost."""
        self.tokens = np.empty((count, self.channels), np.float32)
        self.labels = np.empty(count, np.int64)


def _mixed(held: _Chunk, count: int, batch: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` tokens of a chunk in random batches; a last one of less than half joins the one before."""
    mixed = rng.permutation(count)
    parts = max(1, round(count / batch))
    for chosen in np.array_split(mixed, parts):
        if len(chosen) > 1:  # what a normalization needs
            yield torch.from_numpy(held.tokens[chosen]), torch.from_numpy(held.labels[chosen])


def _ahead(items: Iterable[str], read: Read) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Images read in order, one while the one before is learned from."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[NDArray[np.float32], NDArray[np.uint8]]]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > LOOKAHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _keep(path: Path, probe: Probe, optimizer: torch.optim.Optimizer, name: str, epochs: int) -> None:
    tensors = {f"probe.{key}": value for key, value in probe.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors.torch.save(tensors, {"name": name, "epochs": json.dumps(epochs)}))


def _restore(path: Path, probe: Probe, optimizer: torch.optim.Optimizer, name: str) -> int:
    """Take up what a checkpoint of this name holds; returns the epochs that it has been through."""
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["name"] != name:
                return 0
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            epochs = int(file.metadata()["epochs"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return 0
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            number, _, field = rest.partition(".")
            state.setdefault(int(number), {})[field] = value
    probe.load_state_dict({k.removeprefix("probe."): v for k, v in tensors.items() if k.startswith("probe.")})
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return epochs


@torch.inference_mode()
def segment(
    probe: Probe, tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The class of each pixel, [height, width]: logits of tokens [n, C] upsampled bilinearly, and the greatest."""
    logits = probe(torch.from_numpy(tokens)).T.reshape(1, -1, *grid)
    large = nn.functional.interpolate(logits, size=size[::-1], mode="bilinear", align_corners=False)
    return np.asarray(large[0].argmax(0).numpy(), np.uint8)


def classes_of_tokens(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """The class of each token, [n]: that of the mask's pixel at its centre."""
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)].ravel()
