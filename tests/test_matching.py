"""The matcher finds the pixel that the reference implementation finds."""

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import reference
from ditf.errors import UserError
from ditf.features.bilinear import AxisInterpolation, sample
from ditf.matching.nearest import PixelIndex

KINDS = ("random", "near ties", "opposed", "equal", "smooth", "zeros", "negative")


def descriptors(kind: str, h: int, w: int, channels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A descriptor map [h * w, channels] of a hostile kind."""
    x = rng.standard_normal((h, w, channels))
    if kind == "near ties":
        x = x[:1, :1] + 1e-4 * x
    elif kind == "opposed":
        x = x[:1, :1] * np.where((np.arange(h)[:, None] + np.arange(w)) % 2, -1, 1)[..., None] + 1e-2 * x
    elif kind == "equal":
        x = np.broadcast_to(x[:1, :1], x.shape)
    elif kind == "smooth":
        x = np.cumsum(np.cumsum(x, 0), 1)
    elif kind == "zeros":
        x = x * (rng.random((h, w, 1)) < 0.5)
    elif kind == "negative":
        x = -np.abs(x)
    return np.ascontiguousarray(x.reshape(h * w, channels), np.float32)


def upsampled(x: NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float64]:
    """Unit vectors at every pixel, [height * width, C], in float64."""
    large = torch.nn.functional.interpolate(
        torch.from_numpy(x).double().T.reshape(1, -1, *grid), size=size[::-1], mode="bilinear", align_corners=False
    )[0]
    return torch.nn.functional.normalize(large, dim=0).flatten(1).T.numpy()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_reference(kind: str, grid: tuple[int, int], size: tuple[int, int], c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = descriptors(kind, *grid, c, rng)
    queries = np.concatenate([rng.standard_normal((3, c)), sample(x, grid, size, np.zeros((1, 2), int)), -x[:1]])
    if kind == "negative":
        queries = np.abs(queries)

    pixels, similarity = PixelIndex(x, grid, size).search(queries)

    unit = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    every = unit @ upsampled(x, grid, size).T
    chosen = pixels[:, 1] * size[0] + pixels[:, 0]
    np.testing.assert_allclose(every[np.arange(len(queries)), chosen], every.max(1), atol=1e-6)
    np.testing.assert_allclose(similarity, every.max(1), atol=1e-6)
    # Beyond the outermost tokens all pixels have the same descriptor. The first of them is chosen.
    for coordinate, tokens, side in ((pixels[:, 0], grid[1], size[0]), (pixels[:, 1], grid[0], size[1])):
        axis = AxisInterpolation.of(tokens, side)
        position = axis.lower + axis.weight
        np.testing.assert_array_equal(coordinate, np.searchsorted(position, position[coordinate]))


def test_first_of_equal_pixels_in_row_major_order() -> None:
    x = np.ones((12, 5), np.float32)
    pixels, similarity = PixelIndex(x, (3, 4), (40, 30)).search(np.ones((1, 5)))
    assert pixels.tolist() == [[0, 0]]
    assert similarity[0] == pytest.approx(1)


def test_border_plateau_gives_its_first_pixel() -> None:
    x = np.eye(4, dtype=np.float32)
    pixels, _ = PixelIndex(x, (2, 2), (20, 20)).search(np.eye(4)[[3]])
    assert pixels.tolist() == [[15, 15]]


def test_agrees_with_the_transcription_at_full_size() -> None:
    rng = np.random.default_rng(0)
    source, target = (descriptors("smooth", 12, 16, 64, rng) for _ in range(2))
    points = np.stack([rng.integers(0, 250, 9), rng.integers(0, 190, 9)], 1)
    one, other = (torch.from_numpy(x).T.reshape(64, 12, 16) for x in (source, target))
    expected, values = reference.match(one, other, (250, 190), (250, 190), points)
    pixels, similarity = PixelIndex(target, (12, 16), (250, 190)).search(sample(source, (12, 16), (250, 190), points))
    np.testing.assert_allclose(similarity, values, atol=1e-6)
    assert (pixels == expected).all(1).mean() > 0.5


def test_a_gpu_that_is_missing_is_named() -> None:
    if faiss.get_num_gpus():
        pytest.skip("FAISS finds a GPU")
    index = PixelIndex(np.ones((4, 3), np.float32), (2, 2), (9, 9), "cuda")
    with pytest.raises(UserError, match="Install faiss-gpu"):
        index.search(np.ones((1, 3)))


def test_no_queries() -> None:
    pixels, similarity = PixelIndex(np.ones((4, 3), np.float32), (2, 2), (9, 9)).search(np.empty((0, 3)))
    assert pixels.shape == (0, 2)
    assert similarity.shape == (0,)
