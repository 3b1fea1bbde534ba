"""Bootstrap intervals and paired tests against what is known of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.metrics.intervals import UnitSums, difference, interval, read_units, write_units


def sums(numerator: NDArray[np.float64], denominator: NDArray[np.float64] | float = 1.0) -> UnitSums:
    """Of units with one part."""
    column = np.asarray(numerator, float)[:, None]
    names = [f"unit{n}" for n in range(len(column))]
    return UnitSums(names, column, np.broadcast_to(np.reshape(denominator, (-1, 1)), column.shape).astype(float))


def bounds(given: UnitSums, seed: int = 0) -> tuple[float, float]:
    found = interval(given, seed)
    assert found
    return found


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        low, high = bounds(sums(rng.normal(50, 10, 60)), seed)
        held += low <= 50 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(50, 10, 400)
    low, high = bounds(sums(values))
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.15 * error)


def test_chance_alone_is_seldom_significant_and_p_is_uniform() -> None:
    rng = np.random.default_rng(0)
    p = [difference(sums(rng.normal(0, 1, 40)), sums(rng.normal(0, 1, 40))).p for _ in range(200)]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10
    assert 0.42 <= np.mean(p) <= 0.58


def test_pairing_finds_a_difference_that_the_intervals_of_each_hide() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(50, 20, 300)
    first, second = sums(hard), sums(hard + 0.5 + rng.normal(0, 1, 300))
    assert bounds(first)[1] > bounds(second)[0]
    found = difference(first, second)
    assert found.p < 0.01 and found.interval and found.interval[0] > 0
    assert found.value == pytest.approx(0.5, abs=0.15) and found.units == 300


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_a_result_does_not_differ_from_itself(values: list[float]) -> None:
    found = difference(sums(np.array(values)), sums(np.array(values)))
    assert (found.value, found.interval, found.p) == (0, (0, 0), 1)
    low, high = bounds(sums(np.array(values)))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=12), st.integers(0, 3))
def test_the_sign_of_a_difference_turns_with_its_order(counts: list[tuple[int, int]], seed: int) -> None:
    right, total = np.array(counts, float).T
    one, other = sums(np.minimum(right, total), total), sums(np.minimum(right[::-1], total), total)
    there, back = difference(one, other, seed), difference(other, one, seed)
    assert there.value == pytest.approx(-back.value) and there.p == pytest.approx(back.p)
    assert there.interval and back.interval
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_a_metric_is_read_as_the_mean_over_parts(tmp_path: Path) -> None:
    rows = [
        ("adaln", "mIoU", "b", "1", 50.0, 2.0),
        ("adaln", "mIoU", "a", "1", 50.0, 2.0),
        ("adaln", "mIoU", "a", "2", 30.0, 1.0),
        ("adaln", "pixel accuracy", "a", "", 1.0, 1.0),
        ("original", "mIoU", "a", "1", 0.0, 1.0),
    ]
    write_units(tmp_path, rows)
    units = read_units(tmp_path)
    assert {name: list(found) for name, found in units.items()} == {
        "adaln": ["mIoU", "pixel accuracy"],
        "original": ["mIoU"],
    }
    found = units["adaln"]["mIoU"]
    assert found.units == ["a", "b"] and found.value() == pytest.approx((100 / 4 + 30) / 2)
    assert found.by_unit() == pytest.approx({"a": (25 + 30) / 2, "b": 25})
    write_units(tmp_path, [])
    assert read_units(tmp_path) == {} == read_units(tmp_path / "none")


def test_a_single_sequence_has_no_interval() -> None:
    one = sums(np.ones(1))
    assert interval(one) is None and difference(one, one).interval is None


def test_results_of_other_units_are_not_compared() -> None:
    one = sums(np.ones(3))
    with pytest.raises(UserError, match="same pairs"):
        difference(one, UnitSums(["a", "b", "c"], one.numerator, one.denominator))
