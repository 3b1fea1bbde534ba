"""One rule for what is out of date: the version of each class, which DVC sees through one file per entry."""

import json
from pathlib import Path
from typing import Any

import pytest

from ditf.backbones.families.flux import Flux
from ditf.backbones.source import pin
from ditf.config.params import load_params
from ditf.datasets.spair import SPair
from ditf.files import Hashes
from ditf.matching.matchers.nearest import Nearest
from ditf.project.freshness import stale_tasks
from ditf.project.versions import records, write_records
from ditf.registry import version_of
from ditf.tasks.base import Task
from ditf.tasks.retrieval import Retrieval
from tests import answers
from tests.conftest import ROOT, Project

RECORDED = json.loads(answers.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("kind", "name"), answers.CLASSES)
def test_results_change_only_with_the_version(kind: str, name: str) -> None:
    assert name in RECORDED[kind], f"{kind}.{name} has no recorded answer: run `python -m tests.answers`"
    recorded = RECORDED[kind][name]
    answer = answers.compute(kind, name)
    same_version = recorded["version"] == answers.identity(kind, name)
    same_answer = answer == pytest.approx(recorded["answer"], rel=2e-3, abs=1e-4)
    assert same_answer or not same_version, (
        f"results of {kind}.{name} changed: raise its `version`, then run `python -m tests.answers`"
    )
    assert same_version, f"the version of {kind}.{name} was raised: run `python -m tests.answers`"
    assert same_answer


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        (Flux, {"features/spair-flux", "features/davis-flux", "features/photos-flux"}),
        (SPair, {"datasets/spair"}),
        (Nearest, {"tasks/spair-flux"}),
        (Retrieval, {"tasks/spair-search", "tasks/photos-search"}),
        (Task, {"tasks/spair-flux", "tasks/davis-flux", "tasks/spair-search", "tasks/photos-search"}),
    ],
)
def test_a_raised_version_changes_the_files_of_its_entries_only(
    monkeypatch: pytest.MonkeyPatch, kind: Any, files: set[str]
) -> None:
    params = load_params(ROOT / "params.yaml")
    models = {name: {"digest": "x"} for name in params.models}
    before = dict(records(params, models))
    monkeypatch.setattr(kind, "version", 99, raising=False)
    after = dict(records(params, models))
    changed = {path for path in after if after[path] != before[path]}
    assert {f"{path.parent.name}/{path.stem}" for path in changed} == files


def test_the_version_of_a_family_is_part_of_what_features_are_known_by(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pin("flux", "tiny-0", "main", Hashes(None))
    before = model.extraction_config
    monkeypatch.setattr(Flux, "version", 2, raising=False)
    assert model.extraction_config != before


def test_a_class_from_outside_is_known_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "from ditf.tasks.retrieval import Retrieval\n\nclass Mine(Retrieval):\n    pass\n"
    versions = []
    for number, text in enumerate((source, source, source + "    # changed\n")):
        (tmp_path / f"mine{number}.py").write_text(text)
        module = __import__(f"mine{number}")
        versions.append(version_of(module.Mine))
    assert versions[0] == versions[1] != versions[2]
    monkeypatch.setattr(Retrieval, "version", 2, raising=False)
    assert version_of(module.Mine) not in versions


def test_a_model_that_is_not_found_stops_only_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_flux: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("source: miniature", "source: weights"))
    [problem] = write_records(load_params(), Hashes(None))
    assert problem.startswith("models.miniature: ")
    assert "error" in json.loads(Path("cache/entries/features/spair-flux.json").read_text())["model"]
    assert json.loads(Path("cache/entries/datasets/spair.json").read_text()) == {"type": "spair", "version": "1"}
    Path("weights").symlink_to(tiny_flux)
    assert write_records(load_params(), Hashes(None)) == []
    pinned = Path("cache/entries/features/spair-flux.json").read_text()
    Path("weights").unlink()  # what was extracted with the model stays usable
    assert write_records(load_params(), Hashes(None)) == []
    assert Path("cache/entries/features/spair-flux.json").read_text() == pinned


def test_files_of_entries_that_are_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gone = Path("cache/entries/tasks/gone.json")
    gone.parent.mkdir(parents=True)
    gone.write_text("{}")
    write_records(load_params(ROOT / "params.yaml"), Hashes(None))
    assert not gone.exists() and Path("cache/entries/tasks/spair-flux.json").exists()


def test_stale_results_are_told_without_dvc(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    assert stale_tasks(load_params()) == {}
    project.set("tasks.davis-flux.predict.topk", 4)
    project.set("tasks.spair-flux.score.alphas", [0.2])
    assert stale_tasks(load_params()) == {
        "davis-flux": "tasks.davis-flux.predict.topk changed",
        "spair-flux": "tasks.spair-flux.score.alphas changed",
    }
    project.check("git", "checkout", "params.yaml")
    project.set("features.photos-flux.timestep", 200)
    assert stale_tasks(load_params()) == {"photos-search": "features.photos-flux.timestep changed"}
    project.check("git", "checkout", "params.yaml")
    monkeypatch.setattr(Flux, "version", 2, raising=False)
    assert len(stale_tasks(load_params())) == 4


def test_a_changed_class_runs_what_depends_on_it_again(project: Project) -> None:
    module = project.folder / "mine.py"
    module.write_text("from ditf.tasks.retrieval import Retrieval\n\nclass Mine(Retrieval):\n    pass\n")
    project.set("tasks.photos-search.type", "mine.Mine")
    project.check("dvc", "repro", "draw@photos-search", "score@photos-search")
    module.write_text(module.read_text() + "    version = 2\n")
    output = project.check("dvc", "repro")
    ran = {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}
    steps = {f"{step}@photos-search" for step in ("predict", "score", "draw")}
    assert ran == {"entries", "report", *steps}
