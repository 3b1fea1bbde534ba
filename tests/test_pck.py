"""PCK, on numbers counted by hand."""

import pyarrow as pa
import pytest

from ditf.metrics.pck import PREDICTIONS, pck

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
