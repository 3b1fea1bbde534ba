"""The benchmarks run, at small size, and find no difference from the reference implementations."""

import importlib
import re
import sys
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a benchmark with options; returns what it printed."""

    def work(module: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [module, *options])
        importlib.import_module(f"benchmarks.{module}").main()
        return capsys.readouterr().out

    return work


@pytest.mark.parametrize(
    ("module", "options", "limit"),
    [
        ("matching", "--images 40 --pairs 6 --channels 160 --points 5 --across", 1e-6),
        ("propagation", "--grid 14 20", 1e-4),
        ("segmentation", "--frames 4", 1e-12),
    ],
    ids=["matching", "propagation", "segmentation"],
)
def test_results_equal_the_reference(run: Run, module: str, options: str, limit: float) -> None:
    shown = run(module, *options.split())
    difference = re.search(r"greatest difference[^|]*\| ([0-9.e+-]+) \|", shown)
    assert difference
    assert float(difference[1]) <= limit
    assert "ratio" in shown


def test_probe_benchmark_runs(run: Run) -> None:
    assert re.search(r"training \| [0-9,]+ tokens/s", run("probe", "--images", "3", "--channels", "160"))


def test_store_benchmark_runs(run: Run) -> None:
    assert "read, in memory" in run("store", "--items", "3")


def test_search_benchmark_runs(run: Run) -> None:
    shown = run("search", "--images", "3", "--channels", "512", "--kinds", "ivfsq")
    assert re.search(r"recall@10 \| 0\.[89]\d+", shown)


def test_extraction_counts(run: Run) -> None:
    shown = run("extraction", "--heads", "1", "--images", "2", "--size", "64", "--samples", "2")
    assert "| VAE encodings per image; published | 1; 2 |" in shown
    assert "| blocks run; published | 28; 57 |" in shown
    share = re.search(r"bytes of the transformer read; published \| ([0-9.]+)%", shown)
    assert share
    assert float(share[1]) <= 66


def test_gpu_benchmark_runs_small(run: Run) -> None:
    shown = run("extract_gpu", "--small", "--images", "1")
    assert "SPair-71k" in shown
    assert "DAVIS" in shown


def test_sweep_benchmark_finds_the_same_features(run: Run) -> None:
    shown = run(
        "sweep", *["--heads", "1", "--images", "1", "--samples", "1", "--timesteps", "260", "--blocks", "3", "20"]
    )
    assert "forward passes; one by one | 1; 2 |" in shown
    assert "greatest difference of features, relative | 0.0e+00 |" in shown
