"""Label propagation: the first frame's mask carried through a video by nearest neighbours of descriptors.

Method: the video-segmentation protocol of DINO (Caron et al., arXiv 2104.14294), with the settings of DiTF.
Similarities are computed only inside the window, tile by tile, so time and memory grow linearly with the tokens.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.bilinear import Axis

TOKEN = 16  # pixels a token covers along each side
TILE = 8  # target tokens along each side of a tile


@dataclass(frozen=True)
class Settings:
    """How labels travel.

    topk: sources kept for each token. temperature: of the weights exp(similarity / temperature).
    n_last_frames: frames of context besides the first. size_mask_neighborhood: a source lies within
    +- this many tokens; 0 is no limit.
    """

    topk: int = 5
    temperature: float = 0.1
    n_last_frames: int = 7
    size_mask_neighborhood: int = 12


def first_labels(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """One-hot labels [objects + 1, h, w] of an index mask [height, width], resized by nearest neighbour."""
    h, w = grid
    small = np.asarray(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST))
    return (small == np.arange(int(mask.max()) + 1)[:, None, None]).astype(np.float32)


def propagate(
    descriptors: Iterable[NDArray[np.float32]],
    labels: NDArray[np.float32],
    settings: Settings,
    device: str = "cpu",
) -> Iterator[NDArray[np.float32]]:
    """Carry `labels` from the first frame through the others.

    Args:
        descriptors: one array [h * w, C] a frame, the first frame's first; read one at a time.
        labels: the first frame's labels, [objects + 1, h, w].
        settings: of the propagation.
        device: a torch device.

    Yields:
        Soft labels [objects + 1, h, w] of each frame but the first.
    """
    grid = (labels.shape[1], labels.shape[2])
    frames = iter(descriptors)
    unit = _unit(next(frames), device)
    soft = torch.from_numpy(np.ascontiguousarray(labels.reshape(len(labels), -1).T)).to(device)
    first = (unit, soft)
    recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=settings.n_last_frames)
    for frame in frames:
        unit = _unit(frame, device)
        context = [first, *recent]
        sources, known = [c[0] for c in context], [c[1] for c in context]
        if settings.size_mask_neighborhood:
            soft = _windowed(unit, sources, known, grid, settings)
        else:
            soft = _unlimited(unit, sources, known, settings)
        recent.append((unit, soft))
        yield soft.T.reshape(labels.shape).cpu().numpy()


def hard_mask(soft: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The index mask [height, width] of soft labels [objects + 1, h, w]; `size` is (width, height)."""
    _, h, w = soft.shape
    y, x = Axis.of(h, h * TOKEN), Axis.of(w, w * TOKEN)
    a, b = y.weight.astype(np.float32)[:, None], x.weight.astype(np.float32)
    rows = soft[:, y.lower] * (1 - a) + soft[:, y.upper] * a
    large = rows[:, :, x.lower] * (1 - b) + rows[:, :, x.upper] * b
    for channel in large:
        low, high = channel.min(), channel.max()
        if high > low:
            channel -= low
            channel /= high - low
        elif high > 0:
            channel[:] = 1
    index = large.argmax(0).astype(np.uint8)
    return np.asarray(Image.fromarray(index).resize(size, Image.Resampling.NEAREST))


def _unit(descriptors: NDArray[np.float32], device: str) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(descriptors).to(device), dim=1)


def _windowed(
    target: torch.Tensor,
    sources: list[torch.Tensor],
    known: list[torch.Tensor],
    grid: tuple[int, int],
    settings: Settings,
) -> torch.Tensor:
    """One frame's soft labels [n, objects + 1], with sources inside the window alone."""
    h, w = grid
    radius = settings.size_mask_neighborhood
    maps = [s.reshape(h, w, -1) for s in sources]
    labels = torch.stack(known).reshape(len(known), h, w, -1)
    result = torch.empty(h, w, labels.shape[-1], device=target.device)
    rows, columns = (torch.arange(n, device=target.device) for n in grid)
    for top in range(0, h, TILE):
        for left in range(0, w, TILE):
            inner = slice(top, min(top + TILE, h)), slice(left, min(left + TILE, w))
            outer = (
                slice(max(top - radius, 0), min(top + TILE + radius, h)),
                slice(max(left - radius, 0), min(left + TILE + radius, w)),
            )
            tile = target.reshape(h, w, -1)[inner]
            near = _near(rows[inner[0]], rows[outer[0]], radius)[:, None, :, None]
            near = near & _near(columns[inner[1]], columns[outer[1]], radius)[None, :, None, :]
            far = ~near.reshape(tile.shape[0] * tile.shape[1], -1)
            flat = tile.flatten(0, 1)
            similarity = torch.cat([(flat @ m[outer].flatten(0, 1).T).masked_fill_(far, -torch.inf) for m in maps], 1)
            part = labels[:, outer[0], outer[1]].flatten(0, 2)
            result[inner] = _vote(similarity, part, settings).reshape(*tile.shape[:2], -1)
    return result.flatten(0, 1)


def _near(one: torch.Tensor, other: torch.Tensor, radius: int) -> torch.Tensor:
    return (one[:, None] - other[None, :]).abs() <= radius


def _vote(similarity: torch.Tensor, labels: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Labels [n, objects + 1] from similarities [n, m] to sources labelled [m, objects + 1]."""
    k = min(settings.topk, similarity.shape[1])
    greatest = similarity.topk(k, dim=1).values
    # Subtracting the maximum changes no weight after normalisation, and keeps exp finite.
    weight = ((similarity - greatest[:, :1]) / settings.temperature).exp_()
    weight[similarity < greatest[:, -1:]] = 0
    return (weight / weight.sum(1, keepdim=True)) @ labels


def _unlimited(
    target: torch.Tensor, sources: list[torch.Tensor], known: list[torch.Tensor], settings: Settings
) -> torch.Tensor:
    """One frame's soft labels [n, objects + 1], with the sources of all places, found by FAISS."""
    import faiss  # here, because most runs have a window and need no second OpenMP runtime

    queries, base = target.cpu().numpy(), torch.cat(sources).cpu().numpy()
    k = min(settings.topk, len(base))
    wanted = min(k + 1, len(base))
    while True:
        similarity, index = faiss.knn(queries, base, wanted, metric=faiss.METRIC_INNER_PRODUCT)
        tied_beyond = (similarity[:, -1] == similarity[:, k - 1]).any()
        if wanted == len(base) or not tied_beyond:
            break
        wanted = min(4 * wanted, len(base))
    kept = similarity >= similarity[:, k - 1 : k]
    weight = np.exp((similarity - similarity[:, :1]) / settings.temperature) * kept
    weight /= weight.sum(1, keepdims=True)
    labels = torch.cat(known).cpu().numpy()
    votes = np.einsum("nk,nko->no", weight, labels[index])
    return torch.from_numpy(votes.astype(np.float32)).to(target.device)
