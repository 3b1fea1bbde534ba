"""On a GPU: the CPU's answers, by every family, option and search. `pytest -m gpu` runs these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.features.store import FeatureStore
from ditf.propagation.propagate import propagate
from ditf.propagation.voting import PropagationConfig
from ditf.workers import cluster
from tests import test_memory
from tests.conftest import new_project
from tests.test_backbones import FAMILIES, encoded_prompt, tiny
from tests.test_memory import cosines, passed, text_of, write_gguf
from tests.test_propagation import least_gap

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: pytest -m gpu")]


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, which cuDNN rounds to 19 bits by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def load(family: str, **loading: Any) -> LoadedDiffusion:
    return test_memory.load(family, device="cuda", **loading)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_cpu(family: str) -> None:
    expected, found = passed(test_memory.load(family), family), passed(load(family), family)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_that_of_the_cpu(family: str) -> None:
    for offload in ("none", "blocks"):
        found, expected = text_of(family, "cuda", offload=offload), encoded_prompt(family)
        assert expected.keys() == found.keys()
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_blocks_give_the_same_bytes(family: str) -> None:
    part, expected = load(family, offload="blocks"), passed(load(family), family)
    blocks = part.layout.blocks(part.model)
    for _ in range(3):  # passes after the first find the blocks put away
        for name, values in passed(part, family).items():
            assert torch.equal(values, expected[name]), name
    resting = [block for block in blocks[: min(part.blocks)] if any(w.is_cuda for w in block.parameters())]
    assert not resting


@pytest.mark.usefixtures("quantizers")
@pytest.mark.parametrize(("how", "nearest"), [("int8", 0.999), ("nf4", 0.97)])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_weights_come_near(family: str, how: str, nearest: float) -> None:
    expected, found = passed(load(family), family), passed(load(family, quantize=how), family)
    for name, values in expected.items():
        if name.startswith("modulation"):
            torch.testing.assert_close(found[name], values)
        elif how == "int8" or family in ("flux", "unet"):
            assert cosines(found[name], values).mean() > nearest
        assert bool(found[name].isfinite().all())


def test_compiled_blocks_give_the_same_features() -> None:
    expected = passed(load("flux"), "flux")
    for options in ({"compile": True}, {"compile": True, "offload": "blocks"}):
        for name, values in passed(load("flux", **options), "flux").items():
            torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("radius", [0, 3, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_are_those_of_the_cpu(radius: int, seed: int) -> None:
    rng, grid = np.random.default_rng(seed), (13, 22)
    frames = [rng.standard_normal((grid[0] * grid[1], 24)).astype(np.float32) for _ in range(7)]
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, grid)].transpose(2, 0, 1)
    voting = PropagationConfig(topk=5, temperature=0.1, n_last_frames=3, radius=radius)
    assert least_gap(frames, grid, voting) > 1e-7
    answers = list(propagate(frames, labels, voting))
    for found, expected in zip(propagate(frames, labels, voting, "cuda"), answers, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.usefixtures("quantizers")
def test_a_gguf_file_stands_in_for_the_transformers_weights(tmp_path: Path) -> None:
    write_gguf(tiny("flux").component("transformer"), tmp_path / "flux.gguf")
    expected = passed(load("flux"), "flux")
    found = passed(load("flux", gguf=str(tmp_path / "flux.gguf")), "flux")
    for name, values in expected.items():
        assert cosines(found[name], values).min() > 0.99


def test_one_worker_per_gpu() -> None:
    pytest.importorskip("dask_cuda")
    with cluster(99, gpus=True) as client:
        assert client is not None
        assert len(client.scheduler_info()["workers"]) == torch.cuda.device_count()


def test_a_pipeline_with_and_without_workers(tmp_path: Path) -> None:
    """In bfloat16, near what the CPU computes in that."""
    pytest.importorskip("dask_cuda")

    def extract(device: str, workers: object) -> FeatureStore:
        project = new_project(tmp_path / f"{device}-{workers}")
        project.set("workers", workers)
        for name, value in (("device", device), ("dtype", "bfloat16")):
            project.set(f"models.miniature.{name}", value)
        project.check("dvc", "repro", "predict@davis-flux")
        assert "davis-flux: intact" in project.check("ditf", "verify", "--features", "davis-flux")
        return FeatureStore(project.folder / "cache/features/davis-flux")

    expected, *found = map(extract, ("cpu", "auto", "auto"), ("none", "none", 1))
    for store in found:
        assert store.ids == expected.ids
        for item in store.ids:
            one, other = (torch.from_numpy(s[item].tokens) for s in (expected, store))
            assert cosines(one, other).min() > 0.99
