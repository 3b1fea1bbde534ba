"""Presets: sets of entries that ship with the package."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ditf.backbones.source import local_folder
from ditf.cli.app import app
from ditf.data.catalog import Catalog
from ditf.project.presets import load_preset, preset_names, remarks_of
from ditf.sample.davis import build_davis
from ditf.sample.spair import build_spair
from tests.conftest import Project

EXPECTED = {
    "ade20k-linear",
    "ditf-ap10k",
    "ditf-davis",
    "ditf-spair",
    "geoaware-zero-shot",
    "hpatches-dift",
    "pf-pascal",
    "pf-willow",
    "quick",
    "sd-dino-spair",
}


def ditf(*arguments: str) -> str:
    """Run a command that must succeed. Returns its output."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def fails(*arguments: str) -> list[str]:
    """Run a command that must fail with status 2. Returns the lines of its errors."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    return result.stderr.splitlines()


def start(folder: Path, *names: str) -> Project:
    """Make a project with the first preset, and add the others. The data sets are not there."""
    for number, name in enumerate(names):
        roots = [word for key in load_preset(name).header.data for word in ("--root", f"{key}=/missing/{key}")]
        if number == 0:
            ditf("init", str(folder), "--no-git", "--preset", name, *roots)
        else:
            Project(folder).check("ditf", "preset", "add", name, *roots)
    return Project(folder)


def test_the_list_names_every_preset() -> None:
    assert set(preset_names()) == EXPECTED
    output = ditf("presets")
    assert all(name in output for name in EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_preset_is_valid_and_its_remarks_name_settings(name: str) -> None:
    preset = load_preset(name)
    params = preset.params
    for row in preset.header.rows:
        assert row.descriptor in params.tasks[row.task].predict.descriptors
        assert row.published is None or preset.published(row)
    assert {row.task for row in preset.header.rows} == params.tasks.keys()
    for path in [*preset.header.unverified, *preset.header.differs]:
        place: Any = preset.sections
        for key in path.split("."):
            place = place[key]
    for bounds in preset.header.plausible:
        assert bounds.descriptor in params.tasks[bounds.task].predict.descriptors
        assert 0 <= bounds.low < bounds.high <= 100
    assert {dataset.root for dataset in params.datasets.values()} == preset.header.data.keys()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_preset_starts_a_project_that_plans_without_data(name: str, tmp_path: Path) -> None:
    project = start(tmp_path / "project", name)
    output = project.check("ditf", "plan", "--tflops", "100")
    assert all(entry in output for entry in project.params["features"])
    assert "the official release" in output
    assert "unknown" not in output
    text = (project.folder / "params.yaml").read_text()
    assert f"the preset {name}, version" in text
    assert "# Models. source is a Hub id" in text, "the comments of the template stay"
    assert "tiny-0" not in project.params["models"]


def test_show_explains_a_preset_without_data() -> None:
    output = ditf("preset", "show", "ditf-spair")
    assert "arXiv 2505.18584" in output
    assert "features.spair-71k-sd35.timestep: the paper does not publish it" in output
    row = next(line for line in output.splitlines() if "DIFT with SD2.1" in line)
    assert "57.7 point@0.1" in row
    assert row.split()[-1] == "published"
    unverified = next(line for line in output.splitlines() if "SD3.5 with AdaLN" in line)
    assert unverified.split()[-1] == "unverified"
    cost = next(line for line in output.splitlines() if line.split()[:1] == ["spair-71k-flux"])
    assert cost.split()[1:] == ["486", "5.1", "min", "3.58", "GB", "24", "GB", "8", "GB"]
    assert "black-forest-labs/FLUX.1-dev: 16.8 B parameters with text encoders, 33.6 GB" in output
    assert "https://cvlab.postech.ac.kr/research/SPair-71k/" in output


def test_wrong_names_and_missing_folders_are_one_line_each(tmp_path: Path) -> None:
    assert fails("preset", "show", "quik") == ["error: quik: not a preset. Did you mean quick?"]
    folder = str(tmp_path / "new")
    errors = fails("init", folder, "--preset", "quick")
    assert len(errors) == 2
    assert errors[0].startswith("error: --root: the folder of SPair-71k is missing. Give --root spair=FOLDER")
    wrong = fails("init", folder, "--preset", "quick", "--root", "spar=/data")
    assert wrong == ["error: --root: spar is not in the preset quick. Did you mean spair?"]
    assert "not of the form NAME=FOLDER" in fails("init", folder, "--preset", "quick", "--root", "/data")[0]
    assert "Give --preset" in fails("init", folder, "--root", "spair=/data")[0]
    assert not Path(folder).exists()


def test_presets_share_entries_and_their_cache(tmp_path: Path) -> None:
    project = start(tmp_path / "project", "sd-dino-spair")
    file = project.folder / "params.yaml"
    file.write_text(file.read_text().replace("    timestep: 100\n", "    timestep: 100  # as published\n", 1))
    before = file.read_text()
    output = project.check("ditf", "preset", "add", "geoaware-zero-shot")
    assert "features: added spair-canvas-sd15-t50\n" in output, "DINOv2's features are there, and so is the data set"
    after = file.read_text()
    assert set(before.splitlines()) <= set(after.splitlines())
    assert "# as published" in after
    assert "has all entries" in project.check("ditf", "preset", "add", "geoaware-zero-shot")
    assert file.read_text() == after


def test_all_presets_fit_into_one_project(tmp_path: Path) -> None:
    project = start(tmp_path / "project", *sorted(EXPECTED))
    tasks = {name for preset in map(load_preset, EXPECTED) for name in preset.params.tasks}
    assert project.params["tasks"].keys() == tasks


def test_a_clash_changes_nothing(tmp_path: Path) -> None:
    project = start(tmp_path / "project", "sd-dino-spair")
    project.set("features.spair-canvas-dinov2.blocks", [10, 11])
    before = (project.folder / "params.yaml").read_text()
    error = project.fail("ditf", "preset", "add", "geoaware-zero-shot")
    assert error == (
        "error: params.yaml: features.spair-canvas-dinov2.blocks: is [10, 11], but [11] in the preset "
        "geoaware-zero-shot. Rename this entry, or make them equal.\n"
    )
    other = project.fail("ditf", "preset", "add", "sd-dino-spair", "--root", "spair-canvas=/elsewhere")
    assert "datasets.spair-canvas.root: is /missing/spair-canvas, but /elsewhere in the preset" in other
    assert (project.folder / "params.yaml").read_text() == before


def test_a_local_copy_of_a_model_is_no_clash(tmp_path: Path) -> None:
    project = start(tmp_path / "project", "sd-dino-spair")
    project.set("models.dinov2.source", "tiny-0")
    project.set("models.dinov2.batch_size", 2)
    project.check("ditf", "preset", "add", "geoaware-zero-shot")
    assert project.params["models"]["dinov2"]["source"] == "tiny-0"
    error = project.fail("ditf", "preset", "add", "geoaware-zero-shot", "--model", "dinov2=facebook/dinov2-large")
    assert "models.dinov2.source: is tiny-0, but facebook/dinov2-large" in error


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few pairs and short sequences in the official layouts."""
    roots = {name: tmp_path_factory.mktemp(name) / "data" for name in ("spair", "davis")}
    build_spair(roots["spair"], 0)
    pairs = sorted((roots["spair"] / "PairAnnotation/test").iterdir())
    for path in pairs[2:]:
        path.unlink()
    build_davis(roots["davis"], 0)
    names = roots["davis"] / "ImageSets/2017/val.txt"
    for kind in ("JPEGImages", "Annotations"):
        for path in (roots["davis"] / kind).glob("*/*/*"):
            if int(path.stem) > 2:
                path.unlink()
        shutil.copytree(roots["davis"] / kind / "480p/one-disc", roots["davis"] / kind / "480p/one-more")
    names.write_text(names.read_text() + "one-more\n")
    return roots


@pytest.mark.slow
def test_quick_says_whether_its_figures_are_plausible(small_data: dict[str, Path], tmp_path: Path) -> None:
    """Tiny models take the place of the real ones, and their figures are not plausible."""
    models = {"sd21": local_folder("unet", "tiny-0"), "dinov2": local_folder("vit", "tiny-0")}
    words = [word for name, root in small_data.items() for word in ("--root", f"{name}={root}")]
    words += [word for name, source in models.items() for word in ("--model", f"{name}={source}")]
    ditf("init", str(tmp_path / "project"), "--no-git", "--preset", "quick", *words)
    project = Project(tmp_path / "project")
    assert project.params["models"]["sd21"]["source"] == str(models["sd21"])
    features = list(project.params["features"])
    stages = ["entries", *(f"catalog@{name}" for name in project.params["datasets"])]
    stages += [f"{stage}@{name}" for stage in ("text", "features") for name in features]
    project.stages(*stages, *(f"{stage}@{name}" for stage in ("predict", "score") for name in project.params["tasks"]))
    assert len(Catalog(project.folder / "catalogs/davis-2017-quick").rows("sequences")) == 3
    output = project.check("ditf", "results")
    verdicts = [line for line in output.splitlines() if "plausible" in line]
    assert len(verdicts) == 3
    first = next(line for line in verdicts if "quick-spair-dift: point@0.1" in line)
    assert "is not plausible; expected 45 to 70 (57.7 on all pairs in arXiv 2505.18584)" in first
    assert "quick-spair-dift: differs from the published settings: " in output

    metrics = project.folder / "results/quick-spair-dift/metrics.json"
    metrics.write_text(json.dumps({"original": {"point@0.1": 57.0}}))
    assert "quick-spair-dift: point@0.1 57.0 is plausible" in project.check("ditf", "results")
    project.set("features.quick-spair-dift.timestep", 400)
    assert "quick-spair-dift: point@0.1" not in project.check("ditf", "results"), "other settings than the preset's"


def test_a_subset_has_the_chosen_pairs(small_data: dict[str, Path], tmp_path: Path) -> None:
    project = start(tmp_path / "project", "quick")
    for name, value in (("root", str(small_data["spair"])), ("subset", 1)):
        project.set(f"datasets.spair-71k-quick.{name}", value)
    project.stages("catalog@spair-71k-quick")
    catalog = Catalog(project.folder / "catalogs/spair-71k-quick")
    (pair,) = catalog.rows("pairs")
    assert {row["id"] for row in catalog.rows("images")} == {pair["source"], pair["target"]}
    assert {row["pair"] for row in catalog.rows("keypoints")} == {pair["pair"]}
    project.set("datasets.spair-71k-quick.subset", ["nothing"])
    done = project.run("python", "-m", "stages.catalog", "spair-71k-quick")
    assert done.returncode == 2
    assert "subset: 'nothing' is not in" in done.stderr


def test_remarks_on_settings_follow_the_tasks_of_a_preset() -> None:
    remarks = remarks_of(load_preset("ade20k-linear").params)
    assert set(remarks) == {"ade20k-flux", "ade20k-dinov2"}
    assert remarks["ade20k-dinov2"][0].startswith("unverified: prompt, source, img_size")
    assert remarks["ade20k-dinov2"][1].startswith("differs: ")
    published = load_preset("ditf-spair").params
    own = published.model_copy(update={"tasks": {"mine": published.tasks["spair-71k-flux"]}})
    assert not remarks_of(own)
