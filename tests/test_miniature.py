"""The trained miniature that comes with the package, through the whole pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditf.backbones.source import MINIATURE_FOLDER
from ditf.data.tables import read_table
from tests.conftest import Project

BLOCK = 7
MASSIVE = [37, 141, 186]
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "galaxy", "motorcycle", "rocket")  # categories of warped photographs


def test_the_weights_are_small_and_have_a_card() -> None:
    weights = list(MINIATURE_FOLDER.rglob("*.safetensors"))
    assert {path.parent.name for path in weights} == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert sum(path.stat().st_size for path in weights) <= 16_000_000
    card = (MINIATURE_FOLDER / "README.md").read_text(encoding="utf-8")
    for fact in ("Apache-2.0", "EfficientNet-Lite0", "massive channels were arranged", "losses.png"):
        assert fact in card
    assert (MINIATURE_FOLDER / "losses.png").is_file()


def run(project: Project, dataset: str, img_size: int, timestep: int, task: dict[str, Any]) -> Path:
    """Add entries for a data set, and run their stages. Returns the folder of the results."""
    project.set("models.trained", {"type": "flux", "source": "miniature"})
    features = {"dataset": dataset, "model": "trained", "img_size": img_size, "timestep": timestep, "blocks": [BLOCK]}
    project.set("features.trained", features | {"ensemble_size": 2})
    project.set("tasks.trained", task | {"dataset": dataset, "features": "trained"})
    stages = (f"{stage}@trained" for stage in ("text", "features", "analysis", "predict", "score"))
    project.stages("entries", f"catalog@{dataset}", *stages)
    return project.folder / "results/trained"


@pytest.mark.slow
def test_modulation_repairs_the_matches(project: Project) -> None:
    predict: dict[str, Any] = {
        "block": BLOCK,
        "descriptors": ["original", "adaln", "adaln+discard"],
        "channels": "auto",
    }
    task = {"type": "correspondence", "predict": predict, "score": {"alphas": [0.1]}}
    results = run(project, "spair", 256, 260, task)
    assert json.loads((results / "run.json").read_text())["discarded"] == MASSIVE
    pck = {}
    for descriptor in predict["descriptors"]:
        photographs = [
            row
            for row in read_table(results / "tables/pck.csv")
            if (row["descriptor"], row["rule"], row["group"]) == (descriptor, "box", "category")
            and row["value"] in PHOTOGRAPHS
        ]
        values, counts = ([float(row[name]) for row in photographs] for name in ("point", "keypoints"))
        pck[descriptor] = np.average(values, weights=counts)
    assert pck["adaln+discard"] >= 85
    assert pck["adaln"] >= pck["original"] + 10


@pytest.mark.slow
def test_objects_of_real_videos_are_followed(project: Project, real_davis: Path) -> None:
    project.set("datasets.real", {"type": "davis", "root": str(real_davis), "year": 2017, "split": "val"})
    predict = {"block": BLOCK, "descriptors": ["adaln+discard"], "channels": "auto"}
    results = run(project, "real", 480, 90, {"type": "propagation", "predict": predict, "score": {}})
    metrics = json.loads((results / "metrics.json").read_text())["adaln+discard"]
    assert metrics["J&F"] >= 0.66
