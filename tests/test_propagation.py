"""Label propagation against the full matrix of similarities."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import reference
from ditf.propagation.banded import BandedSearch
from ditf.propagation.labels import first_labels, hard_mask
from ditf.propagation.propagate import propagate
from ditf.propagation.voting import PropagationConfig
from ditf.propagation.window import WindowSearch


def expected(
    frames: list[NDArray[np.float32]], labels: NDArray[np.float32], s: PropagationConfig
) -> list[NDArray[np.float32]]:
    grid = (labels.shape[1], labels.shape[2])
    tensors = [torch.from_numpy(frame) for frame in frames]
    soft = torch.from_numpy(labels.reshape(len(labels), -1).T.copy())
    first, recent, found = (tensors[0], soft), deque[tuple[torch.Tensor, torch.Tensor]](maxlen=s.n_last_frames), []
    for tensor in tensors[1:]:
        context = [first, *recent]
        soft = reference.propagate_frame(
            tensor,
            [c[0] for c in context],
            [c[1] for c in context],
            grid,
            s.topk,
            s.temperature,
            s.radius,
        )
        recent.append((tensor, soft))
        found.append(soft.T.reshape(labels.shape).numpy())
    return found


def by_search(
    search: Any, frames: list[NDArray[np.float32]], labels: NDArray[np.float32], s: PropagationConfig
) -> Iterator[NDArray[np.float32]]:
    """Propagate with one of the searches."""
    known = torch.from_numpy(labels.reshape(len(labels), -1).T.copy())
    first = (search.prepare(torch.from_numpy(frames[0])), known)
    recent = deque[Any](maxlen=s.n_last_frames)
    for frame in frames[1:]:
        prepared = search.prepare(torch.from_numpy(frame))
        soft = search.labels(prepared, [first, *recent])
        recent.append((prepared, soft))
        yield soft.T.reshape(labels.shape).numpy()


def least_gap(frames: list[NDArray[np.float32]], grid: tuple[int, int], s: PropagationConfig) -> float:
    """The least difference of a token's k-th greatest similarity and the next; where it is tiny, rounding decides."""
    units = [frame / np.linalg.norm(frame, axis=1, keepdims=True) for frame in frames]
    y, x = (p.ravel() for p in np.indices(grid))
    apart = np.maximum(np.abs(y[:, None] - y), np.abs(x[:, None] - x))
    least = np.inf
    for t in range(1, len(units)):
        context = [units[0], *units[max(1, t - s.n_last_frames) : t]]
        similarity = units[t].astype(np.float64) @ np.concatenate(context).T
        if s.radius:
            similarity[np.tile(apart > s.radius, len(context))] = -np.inf
        if similarity.shape[1] > s.topk:
            ordered = -np.sort(-similarity, axis=1)
            ordered = ordered[np.isfinite(ordered[:, s.topk])]
            least = min(least, (ordered[:, s.topk - 1] - ordered[:, s.topk]).min(initial=np.inf))
    return least


@settings(max_examples=60, deadline=None)
@example((12, 6), 3, 0, 2, 3, 0.05, 256, 120547)  # a near tie, which low precision would turn around
@given(
    st.tuples(st.integers(1, 21), st.integers(1, 19)),
    st.integers(1, 5),
    st.integers(0, 4),
    st.integers(0, 12),
    st.integers(1, 9),
    st.sampled_from([0.05, 0.1, 1.0]),
    st.sampled_from([1, 2, 256]),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_reference(
    grid: tuple[int, int], count: int, last: int, window: int, topk: int, temperature: float, leading: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spread = np.array([3, 2, 1, 0.3, 0.2, 0.1])  # so that leading axes rule something out
    frames = [(spread * rng.standard_normal((grid[0] * grid[1], 6))).astype(np.float32) for _ in range(count + 1)]
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, grid)].transpose(2, 0, 1)
    s = PropagationConfig(topk, temperature, last, window)
    assume(least_gap(frames, grid, s) > 1e-6)
    answers = expected(frames, labels, s)
    for found, answer in zip(propagate(frames, labels, s), answers, strict=True):
        np.testing.assert_allclose(found, answer, atol=1e-4)
    if window:
        for search in (WindowSearch(grid, s, axes=leading), BandedSearch(grid, s)):
            for found, answer in zip(by_search(search, frames, labels, s), answers, strict=True):
                np.testing.assert_allclose(found, answer, atol=1e-4)


def test_every_tie_with_the_kth_is_kept() -> None:
    frame = np.ones((6, 4), np.float32)
    labels = np.eye(2, dtype=np.float32)[[[0, 0, 0], [0, 1, 1]]].transpose(2, 0, 1)
    for window in (0, 5):
        (soft,) = propagate([frame, frame], labels, PropagationConfig(topk=1, radius=window))
        np.testing.assert_allclose(soft[1], 1 / 3, atol=1e-6)


def test_a_low_temperature_stays_finite() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.standard_normal((12, 8)).astype(np.float32) for _ in range(2)]
    labels = np.eye(2, dtype=np.float32)[rng.integers(0, 2, (3, 4))].transpose(2, 0, 1)
    for window in (0, 2):
        (soft,) = propagate(frames, labels, PropagationConfig(temperature=1e-4, radius=window))
        np.testing.assert_allclose(soft.sum(0), 1, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_hard_mask_equals_the_reference(objects: int, h: int, w: int, seed: int) -> None:
    soft = np.random.default_rng(seed).dirichlet(np.ones(objects + 1), (h, w)).transpose(2, 0, 1).astype(np.float32)
    scaled = reference.scaled_labels(torch.from_numpy(soft.copy())).numpy()
    chosen = np.take_along_axis(scaled, hard_mask(soft, (16 * w, 16 * h), 16)[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, scaled.max(0), atol=1e-5)


def test_a_lone_label_wins_everywhere() -> None:
    soft = np.stack([np.zeros((2, 3)), np.ones((2, 3))]).astype(np.float32)
    assert (hard_mask(soft, (48, 32), 16) == 1).all()


def test_void_is_background() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:16, :16], mask[16:, 16:] = 1, 255
    np.testing.assert_array_equal(first_labels(mask, (2, 2)), [[[0, 1], [1, 1]], [[1, 0], [0, 0]]])


def test_first_labels_are_one_hot_of_the_nearest_pixels() -> None:
    mask = np.repeat(np.repeat(np.array([[0, 2], [1, 0]], np.uint8), 16, 0), 16, 1)
    np.testing.assert_array_equal(first_labels(mask, (2, 2)), [[[1, 0], [0, 1]], [[0, 0], [1, 0]], [[0, 1], [0, 0]]])


def test_uninitialized_memory_is_not_read() -> None:
    rng = np.random.default_rng(3)
    grid = (30, 52)
    maps = [rng.standard_normal((grid[0] * grid[1], 80)).astype(np.float32) for _ in range(7)]
    labels = np.zeros((2, *grid), np.float32)
    labels[0], labels[1, 5:15, 5:15] = 1, 1
    config = PropagationConfig(5, 0.1, 7, 12)
    expected = list(propagate(maps, labels, config))
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        filled = list(propagate(maps, labels, config))
    finally:
        torch.use_deterministic_algorithms(False)
    np.testing.assert_array_equal(filled, expected)
