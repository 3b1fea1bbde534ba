"""J and F against a plain evaluation over the whole image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import reference
from ditf.metrics.segmentation import evaluate_frame, statistics, summarize


@settings(max_examples=80, deadline=None)
@given(st.integers(3, 60), st.integers(3, 60), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_equals_the_plain_evaluation(height: int, width: int, objects: int, void: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, objects + 1, (2, 6, 6), np.uint8)
    truth, guess = (np.kron(m, np.ones((10, 10), np.uint8))[:height, :width] for m in coarse)
    if void:
        truth = np.where(rng.random(truth.shape) < 0.05, 255, truth).astype(np.uint8)
    np.testing.assert_allclose(
        evaluate_frame(truth, guess, objects), reference.evaluate_frame(truth, guess, objects), atol=1e-12
    )


@pytest.mark.parametrize(("truth", "guess", "j", "f"), [(0, 0, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0)])
def test_empty_masks(truth: int, guess: int, j: float, f: float) -> None:
    masks = [np.zeros((40, 40), np.uint8) for _ in range(2)]
    for mask, present in zip(masks, (truth, guess), strict=True):
        mask[10:20, 10:20] = present
    assert evaluate_frame(masks[0], masks[1], 1).tolist() == [[j, f]]


def test_decay_takes_the_quarters_with_both_ends() -> None:
    values = np.arange(10, 0, -1) / 10
    found = statistics(values)
    assert found["Mean"] == pytest.approx(0.55)
    assert found["Recall"] == pytest.approx(0.5)
    assert found["Decay"] == pytest.approx(values[0:3].mean() - values[7:10].mean())


def test_short_sequences_have_metrics() -> None:
    for frames in (1, 2, 3):
        found = summarize({"a_1": np.full((frames, 2), 0.75)})
        assert found["J&F-Mean"] == 0.75
        assert found["J-Decay"] == 0
