"""PCK, on numbers counted by hand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditf.metrics.pck import PREDICTIONS, of_nearest_keypoint, pck

SCHEMA = pa.schema([*PREDICTIONS, pa.field("occlusion", pa.int8())])


def row(pair: str, category: str, error: float, **changes: object) -> dict[str, object]:
    points = dict.fromkeys(
        ("keypoint", "source_x", "source_y", "target_x", "target_y", "predicted_x", "predicted_y"), 0
    )
    base = {
        "descriptor": "adaln",
        "pair": pair,
        "category": category,
        "similarity": 1.0,
        "confidence": 1.0,
        "threshold": 100.0,
    }
    return {**base, **points, "error": error, "occlusion": 0, **changes}


ROWS = [
    row("1", "cat", 10.0),  # just correct at 0.1
    row("1", "cat", 10.001),
    row("1", "cat", 4.0),
    row("2", "cat", 50.0, occlusion=2),
    row("3", "dog", 0.0),
]


def score(alpha: float, group: str, value: str) -> dict[str, float]:
    found = pck(pa.Table.from_pylist(ROWS, schema=SCHEMA), [0.05, 0.1])
    (match,) = [r for r in found if (r["alpha"], r["group"], r["value"]) == (alpha, group, value)]
    return match


def test_by_category_all_and_mean() -> None:
    assert score(0.1, "category", "cat")["point"] == pytest.approx(50)
    assert score(0.1, "category", "cat")["image"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert score(0.1, "category", "dog")["point"] == pytest.approx(100)
    assert score(0.1, "category", "All")["point"] == pytest.approx(60)
    assert score(0.1, "category", "All")["image"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert score(0.1, "category", "Mean")["point"] == pytest.approx(75)


def test_a_smaller_alpha_is_stricter() -> None:
    assert score(0.05, "category", "All")["point"] == pytest.approx(40)


def test_by_any_other_column() -> None:
    assert score(0.1, "occlusion", "0")["point"] == pytest.approx(75)
    assert score(0.1, "occlusion", "2")["point"] == 0
    assert score(0.1, "occlusion", "2")["pairs"] == 1


def points(descriptor: str, pair: str, places: list[tuple[float, float]]) -> list[dict[str, object]]:
    """Keypoints on a line: the true x and the predicted x of each."""
    return [
        row(pair, "cat", abs(true - found), descriptor=descriptor, keypoint=n, target_x=true, predicted_x=found)
        for n, (true, found) in enumerate(places)
    ]


DAGGER_ROWS = [
    *points("adaln", "1", [(0, 3), (8, 3), (100, 100)]),  # 3 is nearer to 0 than to 8
    *points("adaln", "2", [(4, 0), (50, 54)]),  # 0 is a keypoint of another pair
    *points("original", "1", [(0, 4), (8, 4)]),  # a tie
    *points("original", "2", [(0, 8), (8, 0)]),  # a swap, with errors of 8
]


def test_pck_dagger_by_hand() -> None:
    order = np.random.default_rng(0).permutation(len(DAGGER_ROWS))
    table = pa.Table.from_pylist([DAGGER_ROWS[n] for n in order], schema=SCHEMA)
    found = of_nearest_keypoint(table)
    assert found.drop(["error"]).equals(table.drop(["error"]))
    wrong = {
        (row["descriptor"], row["pair"], row["keypoint"]) for row in found.to_pylist() if row["error"] == float("inf")
    }
    assert wrong == {("adaln", "1", 1), ("original", "2", 0), ("original", "2", 1)}
    kept = [(new, old) for new, old in zip(found["error"].to_pylist(), table["error"].to_pylist(), strict=True)]
    assert all(new in (old, float("inf")) for new, old in kept)
    rows = {row["descriptor"]: row for row in pck(found, [0.1]) if row["value"] == "All"}
    assert rows["adaln"]["point"] == pytest.approx(80)
    assert rows["adaln"]["image"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert rows["original"]["point"] == pytest.approx(50)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_pck_dagger_of_a_pair_equals_the_published_program(count: int, seed: int) -> None:
    """As `correct_kps_analyze` computes it: the nearest true keypoint of each prediction is its own."""
    rng = np.random.default_rng(seed)
    target, predicted = rng.uniform(0, 60, (2, count, 2))
    rows = [
        row(
            "1",
            "cat",
            float(np.hypot(*(predicted[n] - target[n]))),
            keypoint=n,
            **{f"target_{axis}": target[n, i] for i, axis in enumerate("xy")},
            **{f"predicted_{axis}": predicted[n, i] for i, axis in enumerate("xy")},
        )
        for n in range(count)
    ]
    distances = np.sqrt(((predicted[:, None] - target[None]) ** 2).sum(-1))
    correct = (distances.diagonal() <= 0.1 * 100) & (distances.argmin(1) == np.arange(count))
    table = of_nearest_keypoint(pa.Table.from_pylist(rows, schema=SCHEMA))
    (found,) = [each for each in pck(table, [0.1]) if (each["group"], each["value"]) == ("category", "All")]
    assert found["point"] == pytest.approx(100 * correct.mean())
