"""`ditf plan`: what an extraction costs, before anything is run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ditf.backbones.base import Backbone, LoadedBackbone
from ditf.config.params import Params, validate
from ditf.project import speed
from ditf.project.plan import plan


class Outside(Backbone):
    """A backbone from outside the package, whose sizes are unknown."""

    def load(self, *_: Any) -> LoadedBackbone:
        raise NotImplementedError


def params(models: dict[str, Any], **features: Any) -> Params:
    """Parameters with an entry of features for each model."""
    entry = {"dataset": "photos", "img_size": 640, "blocks": [1], **features}
    return validate(
        {
            "sample": {"seed": 0},
            "workers": "none",
            "models": models,
            "datasets": {"photos": {"type": "folder", "root": "photos", "prompt": ""}},
            "features": {name: entry | {"model": name} for name in models},
            "tasks": {},
        }
    )


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_backbone_from_outside_has_unknown_costs() -> None:
    models = {
        "mine": {"type": f"{__name__}.Outside", "source": "someone/model"},
        "flux": {"type": "flux", "source": "black-forest-labs/FLUX.1-dev"},
    }
    rows = {row[""]: row for row in plan(params(models), images=10, size=(640, 480)).rows}
    assert (rows["images"]["mine"], rows["images"]["flux"]) == ("10", "10")
    assert rows["tokens"]["flux"] == "12,000"
    assert all(row["mine"] == "unknown" for label, row in rows.items() if label != "images")
    assert all(row["flux"] != "unknown" for row in rows.values())


def test_the_plan_says_which_speed_it_assumes(tmp_path: Path) -> None:
    flux = params({"flux": {"type": "flux", "source": "black-forest-labs/FLUX.1-dev", "device": "cpu"}})
    assert any("100 TFLOP/s per worker, as --tflops says" in note for note in plan(flux, tflops=100).notes)
    kept = tmp_path / "cache/ditf/speed.json"
    assert not kept.exists()
    notes = plan(flux).notes
    assert any("TFLOP/s per worker, measured with matrix products on this machine's CPU" in note for note in notes)
    known = json.loads(kept.read_text())
    assert list(known.values()) == [speed.measured_tflops(3072, False)]
    kept.write_text(json.dumps(dict.fromkeys(known, 0.5)))
    assert any(note.startswith("Speeds: 0.5 TFLOP/s") for note in plan(flux).notes)


def test_a_speed_that_cannot_be_kept_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert speed.measured_tflops(64, False) > 0
    (tmp_path / "cache/ditf").mkdir(parents=True)
    (tmp_path / "cache/ditf/speed.json").write_text("[1, 2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert speed.measured_tflops(64, False) > 0


def test_planning_does_not_import_torch() -> None:
    script = (
        "import sys; from tests.test_plan import params, plan;"
        "plan(params({'flux': {'type': 'flux', 'source': 'black-forest-labs/FLUX.1-dev', 'device': 'cpu'}}));"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'pipeline'}"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
