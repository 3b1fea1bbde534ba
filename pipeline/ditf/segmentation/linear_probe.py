"""A linear probe: batch normalization and one linear layer on tokens, trained on shuffled chunks of tokens."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

CHUNK_TOKENS = 32_768  # tokens that are shuffled together
LOOKAHEAD = 2  # images that are read in advance
IGNORED = 255  # class of tokens that are not used for training

# Takes the id of an image and a generator of random numbers. Returns descriptors, float32 [n, C], and their classes,
# uint8 [n].
ReadImage = Callable[[str, np.random.Generator], tuple[NDArray[np.float32], NDArray[np.uint8]]]


@dataclass(frozen=True)
class ProbeTraining:
    """How a probe is trained.

    Attributes:
        epochs: Passes over all images.
        batch: Tokens per step.
        rate: Initial learning rate of AdamW, which follows a cosine schedule.
        decay: Weight decay of AdamW.
        seed: Seed of the weights and of the order of tokens.
    """

    epochs: int = 10
    batch: int = 4096
    rate: float = 1e-3
    decay: float = 1e-2
    seed: int = 0


class Probe(nn.Module):
    """Batch normalization and a linear layer.

    Args:
        channels: Channels of the descriptors.
        classes: Number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.linear = nn.Linear(channels, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens, float32 [n, C], to logits, [n, classes]."""
        logits: Tensor = self.linear(self.norm(tokens))
        return logits


def train(images: Sequence[str], read: ReadImage, channels: int, classes: int, training: ProbeTraining) -> Probe:
    """Train a probe. One chunk of tokens is in memory at a time.

    Args:
        images: Ids of the training images.
        read: Function that reads an image.
        channels: Channels of the descriptors.
        classes: Number of classes.
        training: How the probe is trained.

    Returns:
        The probe in evaluation mode.
    """
    generator = torch.Generator().manual_seed(training.seed)
    probe = Probe(channels, classes)
    with torch.no_grad():
        probe.linear.weight.normal_(0, 0.01, generator=generator)
        probe.linear.bias.zero_()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=training.rate, weight_decay=training.decay)
    chunk = TokenChunk(channels)
    with tqdm(desc="probe", total=training.epochs * len(images), unit="image", delay=1) as bar:
        for epoch in range(training.epochs):
            rate = training.rate * 0.5 * (1 + float(np.cos(np.pi * epoch / training.epochs)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            probe.train()
            for tokens, labels in _batches(images, read, training, epoch, chunk):
                loss = nn.functional.cross_entropy(probe(tokens), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            bar.update(len(images))
    return probe.eval()


class TokenChunk:
    """Buffer of tokens that are shuffled together. The same memory holds every chunk.

    Args:
        channels: Channels of the descriptors.

    Attributes:
        tokens: Descriptors, float32 [capacity, C].
        labels: Classes, int64 [capacity].
        count: Number of tokens in the chunk.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self._allocate(CHUNK_TOKENS)

    def _allocate(self, capacity: int) -> None:
        """Replace the buffer by an empty one for a number of tokens."""
        self.tokens = np.empty((capacity, self.channels), np.float32)
        self.labels = np.empty(capacity, np.int64)
        self.count = 0

    def has_room(self, count: int) -> bool:
        """Return whether `count` more tokens fit."""
        return self.count + count <= len(self.labels)

    def add(self, tokens: NDArray[np.float32], labels: NDArray[np.uint8], chosen: NDArray[np.int64]) -> None:
        """Add tokens of an image. If they do not fit, the chunk must be empty, and it grows.

        Args:
            tokens: Descriptors of the image, float32 [n, C].
            labels: Classes of the tokens, uint8 [n].
            chosen: Indices of the tokens to add, [m].
        """
        if not self.has_room(len(chosen)):
            self._allocate(len(chosen))
        place = slice(self.count, self.count + len(chosen))
        np.take(tokens, chosen, 0, out=self.tokens[place])
        self.labels[place] = labels[chosen]
        self.count += len(chosen)

    def empty(self, batch: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all tokens in random batches, and empty the chunk.

        Args:
            batch: Approximate number of tokens in a batch.
            rng: Generator of the random order.

        Yields:
            Descriptors, float32 [n, C], and classes, int64 [n].
        """
        order = rng.permutation(self.count)
        for chosen in np.array_split(order, max(1, round(self.count / batch))):
            if len(chosen) > 1:  # batch normalization needs at least two tokens
                yield torch.from_numpy(self.tokens[chosen]), torch.from_numpy(self.labels[chosen])
        self.count = 0


def _batches(
    images: Sequence[str], read: ReadImage, training: ProbeTraining, epoch: int, chunk: TokenChunk
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of an epoch. Images are read in random order, and the tokens of each chunk are shuffled.

    Args:
        images: Ids of the training images.
        read: Function that reads an image.
        training: How the probe is trained.
        epoch: Number of the epoch, which seeds the order together with the seed of the training.
        chunk: Buffer to use.

    Yields:
        Descriptors, float32 [n, C], and classes, int64 [n].
    """
    rng = np.random.default_rng([training.seed, epoch])
    order = [images[number] for number in rng.permutation(len(images))]
    for tokens, labels in _read_ahead(order, read, rng.spawn(1)[0]):
        chosen = np.flatnonzero(labels != IGNORED)
        if not chunk.has_room(len(chosen)):
            yield from chunk.empty(training.batch, rng)
        chunk.add(tokens, labels, chosen)
    yield from chunk.empty(training.batch, rng)


def _read_ahead(
    images: Iterable[str], read: ReadImage, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Read images in order, in a separate thread while earlier images are used for training."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[NDArray[np.float32], NDArray[np.uint8]]]] = deque()
        for image in images:
            waiting.append(pool.submit(read, image, rng))
            if len(waiting) > LOOKAHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@torch.inference_mode()
def segment(
    probe: Probe, tokens: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Predict the class of each pixel: upsample the logits of tokens bilinearly and take the greatest.

    Args:
        probe: A trained probe.
        tokens: Descriptors of the image, float32 [h * w, C].
        grid: Rows and columns of tokens, (h, w).
        size: Width and height of the image in pixels.

    Returns:
        Classes, uint8 [height, width].
    """
    logits = probe(torch.from_numpy(tokens)).T.reshape(1, -1, *grid)
    large = nn.functional.interpolate(logits, size=size[::-1], mode="bilinear", align_corners=False)
    return np.asarray(large[0].argmax(0).numpy(), np.uint8)


def classes_at_centres(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Look up the class at the centre of each token.

    Args:
        mask: Index mask, uint8 [height, width].
        grid: Rows and columns of tokens, (h, w).

    Returns:
        Classes, uint8 [h * w].
    """
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)].ravel()


def most_frequent_classes(mask: NDArray[np.uint8], grid: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    """Find the most frequent class of each token's pixels. Of equally frequent classes, the first one counts.

    Args:
        mask: Index mask, uint8 [height, width]. Values that are not classes are not counted.
        grid: Rows and columns of tokens, (h, w).
        classes: Number of classes.

    Returns:
        Classes, uint8 [h * w]. A token without a pixel of a class gets `IGNORED`.
    """
    row, column = (((np.arange(side) + 0.5) * n / side).astype(int) for n, side in zip(grid, mask.shape, strict=True))
    token = row[:, None] * grid[1] + column
    valid = mask < classes
    counts = np.bincount(token[valid] * classes + mask[valid], minlength=grid[0] * grid[1] * classes)
    counts = counts.reshape(-1, classes)
    return np.where(counts.any(1), counts.argmax(1), IGNORED).astype(np.uint8)


def sample_pixels(
    tokens: NDArray[np.float32], mask: NDArray[np.uint8], grid: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Interpolate descriptors bilinearly at random pixels, as many as there are tokens.

    A linear layer commutes with the interpolation. Its loss at these pixels is therefore an unbiased estimate of the
    loss of upsampled logits over all pixels of the mask.

    Args:
        tokens: Descriptors, float32 [h * w, C].
        mask: Index mask, uint8 [height, width].
        grid: Rows and columns of tokens, (h, w).
        rng: Generator that chooses the pixels.

    Returns:
        Descriptors, float32 [h * w, C], and the classes of the pixels, uint8 [h * w].
    """
    pixels = [rng.integers(side, size=len(tokens)) for side in mask.shape]
    first, second, weight = [], [], []
    for pixel, n, side in zip(pixels, grid, mask.shape, strict=True):
        place = np.clip((pixel + 0.5) * n / side - 0.5, 0, n - 1)
        first.append(place.astype(int))
        second.append(np.minimum(first[-1] + 1, n - 1))
        weight.append((place - first[-1]).astype(np.float32)[:, None])
    upper, lower = (
        (1 - weight[1]) * tokens[row * grid[1] + first[1]] + weight[1] * tokens[row * grid[1] + second[1]]
        for row in (first[0], second[0])
    )
    return (1 - weight[0]) * upper + weight[0] * lower, mask[pixels[0], pixels[1]]
