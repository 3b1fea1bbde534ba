"""Reference implementations: plain transcriptions of the protocols, to which the fast ones are compared."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def match(
    source: Tensor,
    target: Tensor,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    points: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Semantic correspondence by upsampling: both maps once, the target normalized once, one product for all keypoints.

    Arguments and results are those of `match_as_published`.
    """
    large = F.interpolate(source[None], size=source_size[::-1], mode="bilinear", align_corners=False)[0]
    other = F.interpolate(target[None], size=target_size[::-1], mode="bilinear", align_corners=False)[0]
    queries = F.normalize(large[:, points[:, 1], points[:, 0]], dim=0)
    similarity = queries.T @ F.normalize(other, dim=0).flatten(1)
    values, best = similarity.max(1)
    return np.stack([best % target_size[0], best // target_size[0]], 1), values.double().numpy()


def match_as_published(
    source: Tensor,
    target: Tensor,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    points: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Semantic correspondence by upsampling both descriptor maps to the images' sizes.

    Args:
        source, target: descriptor maps, [C, h, w].
        source_size, target_size: (width, height) in pixels.
        points: source pixels (x, y), [k, 2].

    Returns:
        Target pixels [k, 2] and their cosine similarities [k].
    """
    large = F.interpolate(source[None], size=source_size[::-1], mode="bilinear", align_corners=False)[0]
    other = F.interpolate(target[None], size=target_size[::-1], mode="bilinear", align_corners=False)[0]
    pixels, values = [], []
    for x, y in points:
        query = F.normalize(large[:, y, x], dim=0)
        # The whole map is normalized for every keypoint, as the released script does.
        similarity = torch.einsum("c,chw->hw", query, F.normalize(other, dim=0))
        best = int(similarity.argmax())
        pixels.append([best % target_size[0], best // target_size[0]])
        values.append(float(similarity.flatten()[best]))
    return np.array(pixels), np.array(values)


def similarity_at(
    source: Tensor, target: Tensor, sizes: list[tuple[int, int]], point: list[int], at: list[int]
) -> float:
    """Cosine similarity of a source pixel and a target pixel in the upsampled maps, in float64."""
    maps = [
        F.interpolate(m.double()[None], size=size[::-1], mode="bilinear", align_corners=False)[0]
        for m, size in zip((source, target), sizes, strict=True)
    ]
    vectors = [F.normalize(m[:, y, x], dim=0) for m, (x, y) in zip(maps, (point, at), strict=True)]
    return float(vectors[0] @ vectors[1])


def propagate_frame(
    target: Tensor,
    sources: list[Tensor],
    labels: list[Tensor],
    grid: tuple[int, int],
    topk: int,
    temperature: float,
    window: int,
) -> Tensor:
    """One frame of label propagation with the full matrix of similarities.

    Args:
        target: the frame's descriptors, [n, C]. sources: the context frames', each [n, C].
        labels: the context frames' soft labels, each [n, objects + 1].
        grid: (h, w). window: sources are within +- this many tokens; 0 is no limit.

    Returns:
        Soft labels [n, objects + 1].
    """
    unit = F.normalize(target, dim=1)
    weight = torch.exp(torch.cat([F.normalize(s, dim=1) for s in sources]) @ unit.T / temperature)
    if window:
        y, x = (
            p.flatten() for p in torch.meshgrid(*(torch.arange(n, device=target.device) for n in grid), indexing="ij")
        )
        near = ((y[:, None] - y).abs() <= window) & ((x[:, None] - x).abs() <= window)
        weight = weight * near.repeat(len(sources), 1)
    least = weight.topk(min(topk, len(weight)), dim=0).values[-1]
    weight = torch.where(weight < least, torch.zeros(()), weight)
    weight = weight / weight.sum(0)
    return weight.T @ torch.cat(labels)


def scaled_labels(soft: Tensor) -> Tensor:
    """Soft labels [objects + 1, h, w] upsampled 16 times, each channel scaled by its own minimum and maximum."""
    large = F.interpolate(soft[None], scale_factor=16, mode="bilinear", align_corners=False)[0]
    for channel in large:
        if channel.max() > 0:
            channel -= channel.min().clone()
            channel /= channel.max().clone()
    return large


def evaluate_frame(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], objects: int) -> NDArray[np.float64]:
    """J and F of each object in one frame, over the whole image; 255 in the truth is void."""
    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    rows = []
    for number in range(1, objects + 1):
        true, guess = ((mask == number) & (truth != 255) for mask in (truth, prediction))
        union = (true | guess).sum()
        j = (true & guess).sum() / union if union else 1.0
        true_edge, guess_edge = boundary(true), boundary(guess)
        near_true, near_guess = (cv2.dilate(edge.astype(np.uint8), disk) > 0 for edge in (true_edge, guess_edge))
        if not true_edge.any() and not guess_edge.any():
            precision = recall = 1.0
        elif not guess_edge.any():
            precision, recall = 1.0, 0.0
        elif not true_edge.any():
            precision, recall = 0.0, 1.0
        else:
            precision = (guess_edge & near_true).sum() / guess_edge.sum()
            recall = (true_edge & near_guess).sum() / true_edge.sum()
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        rows.append((j, f))
    return np.array(rows).reshape(objects, 2)


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that differ from their right, lower, or lower right neighbour."""
    edge = np.zeros_like(mask)
    edge[:-1, :-1] = (
        (mask[:-1, :-1] != mask[:-1, 1:]) | (mask[:-1, :-1] != mask[1:, :-1]) | (mask[:-1, :-1] != mask[1:, 1:])
    )
    edge[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    return edge
