"""Descriptors and massive channels."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditf.errors import UserError
from ditf.features.descriptors import ChannelStatistics, describe

rng = np.random.default_rng(0)
TOKENS = rng.standard_normal((7, 16)).astype(np.float16)
MODULATION = rng.standard_normal((3, 16)).astype(np.float32)


def reference(x: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    tensor = torch.from_numpy(x.astype(np.float32))
    tensor[:, list(channels)] = 0
    shift, scale, _ = torch.from_numpy(MODULATION)
    return ((1 + scale) * torch.nn.functional.layer_norm(tensor, (16,), eps=1e-6) + shift).numpy()


def test_original_is_the_feature() -> None:
    np.testing.assert_array_equal(describe(TOKENS, MODULATION, "original", [3]), TOKENS.astype(np.float32))


def test_adaln_is_modulated_layer_norm() -> None:
    np.testing.assert_allclose(describe(TOKENS, MODULATION, "adaln", [3]), reference(TOKENS, ()), atol=1e-5)


@given(st.sets(st.integers(0, 15), max_size=5))
def test_discard_zeroes_before_the_norm(channels: set[int]) -> None:
    found = describe(TOKENS, MODULATION, "adaln+discard", channels)
    np.testing.assert_allclose(found, reference(TOKENS, tuple(channels)), atol=1e-5)


def test_the_cache_is_not_changed() -> None:
    before = TOKENS.copy()
    describe(TOKENS, MODULATION, "adaln+discard", [0, 1])
    np.testing.assert_array_equal(TOKENS, before)


def test_massive_channels_are_great_and_steady() -> None:
    items = [rng.standard_normal((50, 32)) for _ in range(4)]
    for x in items:
        x[:, 3] = 100 + 10 * x[:, 3]  # massive
        x[:, 4] *= 100  # great, but not steady
        x[:, 5] = 5 + 0.1 * x[:, 5]  # steady, but not great
    found = ChannelStatistics.of(items)
    assert found.massive == [3]
    assert found.mean[3] == pytest.approx(np.concatenate(items)[:, 3].mean())
    assert found.std[3] == pytest.approx(np.concatenate(items)[:, 3].std())


def test_no_massive_channel_in_ordinary_features() -> None:
    assert ChannelStatistics.of([rng.standard_normal((100, 32))]).massive == []


@pytest.mark.parametrize(
    ("descriptor", "modulation", "channels", "expected"),
    [
        ("adaIn", MODULATION, [3], "'adaIn' is not known"),
        ("adaln+discard", MODULATION, None, "needs the massive channels"),
        ("adaln", None, None, "needs AdaLN"),
        ("adaln+discard", MODULATION, [16], "channels 0..15"),
        ("adaln+discard", MODULATION, [-1], "channels 0..15"),
    ],
)
def test_what_cannot_be_described_is_an_error(descriptor: Any, modulation: Any, channels: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        describe(TOKENS, modulation, descriptor, channels)
