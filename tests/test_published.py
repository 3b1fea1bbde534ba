"""The published commands, `ditf spair` and `ditf davis`."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import BLOCK, MODELS, ROOT, SHARED, Project

SECTIONS = ("models", "datasets", "features", "tasks")


@pytest.mark.slow
def test_the_published_spair_command(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    command = (
        f"ditf spair --dataset_path data/sample/SPair-71k --save_path {out} --dit_model flux --img_size 256 256 "
        f"--t 260 --k {BLOCK} --ensemble_size 2 --cd --model miniature"
    )
    entries = project.params
    shown = project.check(*command.split())
    assert "astronaut" in shown
    assert "All" in shown
    with (out / "tables/pck.csv").open() as file:
        rows = {
            (row["value"], row["alpha"]): row["point"]
            for row in csv.DictReader(file)
            if (row["rule"], row["group"]) == ("box", "category")
        }
    known = json.loads((project.folder / "results/spair-flux/metrics.json").read_text())["adaln+discard"]
    assert float(rows["All", "0.1"]) == pytest.approx(known["point@0.1"], abs=0.01)
    assert (out / "visualizations/matches_best.png").is_file()
    for section, before in entries.items():  # the entries that were there are as they were
        if isinstance(before, dict):
            assert {key: project.params[section][key] for key in before} == before
    # Without --cd: the features are there. What was delivered before is replaced, what is the user's own stays.
    (out / "my notes.txt").write_text("mine")
    (out / "visualizations/stale.png").write_bytes(b"")
    (out / ".ditf-delivered").open("a").write("visualizations/stale.png\n")
    without_cd = [word for word in command.split() if word != "--cd"]
    project.check(*without_cd, without=MODELS)
    assert (out / "my notes.txt").is_file()
    assert not (out / "visualizations/stale.png").exists()
    # Each run has entries and results of its own; the two tasks share features.
    added = {section: set(project.params[section]) - set(entries[section]) for section in SECTIONS}
    features = f"spair-flux-miniature-t260-k{BLOCK}-e2-s256"
    assert added == {
        "models": {"flux-miniature"},
        "datasets": {"spair-test"},
        "features": {features},
        "tasks": {features, f"{features}-cd"},
    }
    assert all((project.folder / "results" / name / "metrics.json").is_file() for name in added["tasks"])


@pytest.mark.slow
def test_the_published_davis_command(project: Project, tmp_path: Path) -> None:
    """Over two real sequences where they are present, else over the sample's."""
    real = SHARED / "data/DAVIS"
    root, sequence = (real, "car-shadow") if real.is_dir() else ("data/sample/DAVIS", "one-disc")
    flags = f"--data_path {root} --output_dir {tmp_path}/out --img_size 96 --k 4 --t 90 --cd --ensemble_size 1"
    shown = project.check("ditf", "davis", *flags.split(), "--model", "tiny-0", "--year", "2017")
    assert "J and F over all objects" in shown
    assert json.loads((tmp_path / "out/metrics.json").read_text())["adaln+discard"]["J&F"] > 0.1
    assert len(list((tmp_path / f"out/predictions/adaln+discard/{sequence}").glob("*.png"))) >= 8
    assert (tmp_path / f"out/visualizations/{sequence}.gif").is_file()


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """A project in which nothing has run."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "data").mkdir()
    return Project(tmp_path)


SPAIR, DAVIS = "spair --dataset_path data --save_path out", "davis --data_path data --output_dir out"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("spair --dataset_path nowhere --save_path out", "--dataset_path: nowhere is not a folder"),
        ("spair --dataset-path nowhere --save-path out --ensemble-size 2", "--dataset_path: nowhere is not a folder"),
        ("spair --dataset_path data --save_path params.yaml", "params.yaml: not a folder"),
        (f"{SPAIR} --img_size 640 480", "--img_size: 640 480"),
        (f"{SPAIR} --dit_model sd9", "--dit_model: 'sd9' is not known. Did you mean sd3?"),
        (f"{SPAIR} --model nope", "--model: 'nope' is not a folder"),
        (f"{SPAIR} --k 57", "--k: 57 is not a block of black-forest-labs/FLUX.1-dev. Use 0 to 56."),
        (f"{SPAIR} --k -1 --model tiny-0", "--k: should be greater than or equal to 0, not -1"),
        (f"{SPAIR} --t 2000", "--t: should be less than or equal to 1000, not 2000"),
        (f"{SPAIR} --ensemble_size 0", "--ensemble_size: should be greater than or equal to 1, not 0"),
        (f"{SPAIR} --name a.b", "a.b: a name consists of"),
        (f"{SPAIR} --name spair-flux", "--name: tasks has an entry spair-flux with other settings"),
        (f"{DAVIS} --img_size 8", "--img_size: should be greater than or equal to 32, not 8"),
        (f"{DAVIS} --year 2018", "--year: should be 2016 or 2017, not 2018"),
        (f"{DAVIS} --temperature 0", "--temperature: should be greater than 0"),
        (f"{DAVIS} --topk 0", "--topk: should be greater than or equal to 1, not 0"),
    ],
)
def test_a_wrong_flag_is_named_and_changes_nothing(empty: Project, command: str, expected: str) -> None:
    before = (empty.folder / "params.yaml").read_bytes()
    errors = empty.fail("ditf", *command.split())
    assert expected in errors
    assert errors.count("\n") == 1
    assert (empty.folder / "params.yaml").read_bytes() == before
    assert not (empty.folder / "out").exists()


@pytest.mark.slow
def test_a_stage_that_fails_changes_nothing(project: Project) -> None:
    before = (project.folder / "params.yaml").read_bytes()
    errors = project.fail("ditf", *f"{DAVIS} --model tiny-0".split())
    assert "a stage failed, as reported above" in errors
    assert (project.folder / "params.yaml").read_bytes() == before
    assert not (project.folder / "out").exists()
