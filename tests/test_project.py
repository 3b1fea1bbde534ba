"""The whole pipeline under DVC, and the commands, as a user runs them.

Where FLUX must not run, `diffusers` cannot be imported: a stage that needed it would fail.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline.images import read_index_mask

from tests.conftest import Project

MODELS = ("diffusers", "transformers")
TORCH = ("torch", *MODELS)


def figures(project: Project) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((project.folder / "results/spair/pck.json").read_text())
    return found


def run_stages(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_results_of_the_default(project: Project) -> None:
    pck = figures(project)
    assert list(pck) == ["original", "adaln", "adaln+discard"]
    assert pck["adaln+discard"]["point@0.1"] > pck["original"]["point@0.1"]
    channels = json.loads((project.folder / "results/spair/channels/channels.json").read_text())
    assert channels == {"discarded": [11, 42], "massive": [11, 42]}
    jf = json.loads((project.folder / "results/davis/jf.json").read_text())["adaln+discard"]
    assert 0.2 < jf["J&F-Mean"] < 1
    assert all(np.isfinite(value) for value in jf.values())


def test_the_submission_folder_has_every_frame_of_every_sequence(project: Project) -> None:
    truth = project.folder / "data/sample/DAVIS/Annotations/480p"
    submission = project.folder / "results/davis/masks/adaln+discard"
    wanted = {path.relative_to(truth) for path in truth.rglob("*.png")}
    assert {path.relative_to(submission) for path in submission.rglob("*.png")} == wanted
    for path in wanted:
        ours, theirs = Image.open(submission / path), Image.open(truth / path)
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
        if path.stem == "00000":
            np.testing.assert_array_equal(read_index_mask(submission / path), read_index_mask(truth / path))


def test_pictures_are_made(project: Project) -> None:
    results = project.folder / "results"
    for name in ("best", "median", "worst"):
        assert Image.open(results / f"spair/pictures/matches_{name}.png").size[0] > 800
    for sequence in ("one-disc", "two-cross", "three-turn"):
        with Image.open(results / f"davis/pictures/{sequence}.gif") as animation:
            assert getattr(animation, "n_frames", 1) >= 12
        assert (results / f"davis/pictures/{sequence}.png").is_file()
    for dataset in ("spair", "davis"):
        assert (results / dataset / "pictures/features.png").is_file()
        assert (results / dataset / "channels/channels.png").is_file()


def test_a_second_run_changes_nothing(project: Project) -> None:
    assert "Data and pipelines are up to date." in project.check("dvc", "repro", without=TORCH)


def test_the_store_is_not_held_twice(project: Project) -> None:
    shard = project.folder / "cache/features/spair/block28/tokens/c/0/0/0"
    assert shard.stat().st_nlink >= 3  # in the workspace, in DVC's cache, and in staging


@pytest.mark.parametrize(
    ("old", "new", "stages"),
    [
        ("- 0.15", "- 0.2", ["pck"]),
        (
            "  channels: auto\n  alphas",
            "  channels:\n  - 11\n  alphas",
            ["channels@spair", "index@spair", "match", "pck", "pictures@spair"],
        ),
        ("  - original\n", "", ["match", "pck", "pictures@spair"]),
    ],
    ids=["alpha", "channels", "descriptor"],
)
def test_metrics_never_run_flux_nor_import_torch(project: Project, old: str, new: str, stages: list[str]) -> None:
    before = figures(project)
    project.set(old, new)
    assert set(run_stages(project.check("dvc", "repro", without=TORCH))) == set(stages)
    assert figures(project) != before
    project.set(new, old) if new else project.check("git", "checkout", "params.yaml")
    assert run_stages(project.check("dvc", "repro", without=TORCH)) == []
    assert figures(project) == before


@pytest.mark.parametrize(("old", "new"), [("topk: 5", "topk: 3"), ("temperature: 0.1", "temperature: 0.2")])
def test_propagation_never_runs_flux(project: Project, old: str, new: str) -> None:
    project.set(old, new)
    assert set(run_stages(project.check("dvc", "repro", without=MODELS))) == {"propagate", "jf", "pictures@davis"}
    project.set(new, old)
    project.check("dvc", "repro", without=TORCH)


def test_earlier_features_come_back_from_the_cache(project: Project) -> None:
    before = figures(project)
    assert "features@spair" in run_stages(project.check("dvc", "exp", "run", "-S", "spair.timestep=200", "pck"))
    assert figures(project) != before
    project.check("dvc", "exp", "run", "-S", "spair.timestep=260", "pck", without=TORCH)
    assert figures(project) == before
    assert "spair.timestep" in project.check("dvc", "exp", "show", "--csv")
    project.check("git", "checkout", ".")
    project.check("dvc", "repro", without=TORCH)


def test_an_experiment_keeps_the_style_of_params_yaml(project: Project) -> None:
    project.check("dvc", "exp", "run", "-S", "spair.alphas=[0.1,0.2]", "pck", without=TORCH)
    changed = project.check("git", "diff", "--numstat", "params.yaml").split()
    assert int(changed[0]) <= 2
    assert "spair.alphas" in project.check("dvc", "params", "diff")
    project.check("git", "checkout", ".")
    project.check("dvc", "repro", without=TORCH)


def test_push_and_pull_bring_everything_back_without_flux(project: Project, tmp_path: Path) -> None:
    project.check("dvc", "remote", "add", "-f", "-d", "--local", "store", str(tmp_path / "remote"))
    project.check("dvc", "push")
    shutil.rmtree(project.folder / ".dvc/cache/files")  # but not the record of runs
    for name in ("cache/features", "cache/text", "cache/staging", "results"):
        shutil.rmtree(project.folder / name)
    project.check("dvc", "pull", without=TORCH)
    assert "up to date" in project.check("dvc", "repro", without=TORCH)


def test_plots_and_metrics_show(project: Project, tmp_path: Path) -> None:
    assert "adaln+discard" in project.check("dvc", "metrics", "show")
    page = Path(project.check("dvc", "plots", "show", "-o", str(tmp_path)).strip().removeprefix("file://"))
    assert "PCK by category" in page.read_text()
    assert "Ablation" in page.read_text()


def test_the_graph_reads_as_documented(project: Project) -> None:
    lines = [line.strip() for line in project.check("dvc", "dag", "--mermaid").splitlines()]
    edges = [line for line in lines if "-->" in line]
    names = {key: name.strip('"]') for key, _, name in (line.partition("[") for line in lines if "[" in line)}
    found = {tuple(names[node] for node in edge.split("-->")) for edge in edges}
    for wanted in (
        ("sample", "catalog@spair"),
        ("catalog@spair", "text"),
        ("model", "text"),
        ("text", "features@spair"),
        ("features@spair", "match"),
        ("match", "pck"),
        ("features@davis", "propagate"),
        ("propagate", "jf"),
    ):
        assert wanted in found


def test_results_command(project: Project) -> None:
    shown = project.check("ditf", "results")
    assert "PCK by category" in shown
    assert "two massive channels were planted" in shown
    assert "results/spair/pictures/matches_best.png" in shown


@pytest.mark.parametrize("hyphens", [False, True], ids=["underscores", "hyphens"])
def test_the_published_spair_command(project: Project, tmp_path: Path, hyphens: bool) -> None:
    command = (
        "ditf spair --dataset_path data/sample/SPair-71k --save_path {out} --dit_model flux --img_size 160 160 "
        "--t 260 --k 28 --ensemble_size 2 --cd --model cache/tiny-flux"
    ).format(out=tmp_path / "new" / "out")
    words = [w.replace("_", "-") if hyphens and w.startswith("--") else w for w in command.split()]
    before = figures(project)["adaln+discard"]
    shown = project.check(*words, without=MODELS)  # the same settings: the features are there
    assert "astronaut" in shown
    assert "All" in shown
    with (tmp_path / "new/out/pck.csv").open() as file:
        rows = {(r["value"], r["alpha"]): r["point"] for r in csv.DictReader(file) if r["group"] == "category"}
    assert float(rows["All", "0.1"]) == before["point@0.1"]
    assert (tmp_path / "new/out/pictures/matches_best.png").is_file()
    project.check("git", "checkout", "params.yaml")
    project.check("dvc", "repro", without=TORCH)


def test_the_published_davis_command(project: Project, tmp_path: Path) -> None:
    flags = f"--data_path data/sample/DAVIS --output_dir {tmp_path} --img_size 160 --k 24 --t 90 --cd --ensemble_size 2"
    command = ["ditf", "davis", *flags.split(), "--model", "cache/tiny-flux"]
    shown = project.check(*command, without=MODELS)
    assert "J and F over all objects" in shown
    assert len(list((tmp_path / "masks/adaln+discard/one-disc").glob("*.png"))) >= 12
    project.check("git", "checkout", "params.yaml")
    project.check("dvc", "repro", without=TORCH)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("spair --dataset_path nowhere --save_path out", "--dataset_path: nowhere is no folder"),
        ("spair --dataset_path data --save_path out --img_size 640 480", "--img_size: 640 480"),
        ("spair --dataset_path data --save_path out --dit_model sd3", "'sd3' is not known"),
        ("spair --dataset_path data --save_path out --t 2000", "spair.timestep"),
        ("davis --data_path data --output_dir out --img_size 100", "davis.img_size"),
    ],
)
def test_wrong_flags_end_with_one_line_and_change_nothing(project: Project, command: str, expected: str) -> None:
    before = project.check("git", "status", "--porcelain")
    done = project.run("ditf", *command.split())
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert project.check("git", "status", "--porcelain") == before


def test_wrong_parameters_end_with_one_line(project: Project) -> None:
    project.set("timestep: 260", "timestep: 2600")
    done = project.run("python", "-m", "stages.pck")
    project.set("timestep: 2600", "timestep: 260")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "spair.timestep" in done.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [("features", "0 arguments given; wanted: dataset"), ("catalog nothing", "'nothing' is no data set")],
)
def test_wrong_arguments_of_a_stage_end_with_one_line(project: Project, command: str, expected: str) -> None:
    done = project.run("python", "-m", *f"stages.{command}".split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert expected in done.stderr


def test_two_extractions_at_once_do_not_mix(project: Project) -> None:
    from filelock import FileLock

    with FileLock(project.folder / "cache/staging/features/spair.lock"):
        done = project.run("python", "-m", "stages.features", "spair")
    assert done.returncode == 2
    assert "another process is computing this" in done.stderr


def test_nothing_phones_home(project: Project) -> None:
    assert project.check("dvc", "config", "core.analytics").strip() == "false"
    code = "import pipeline, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    assert project.check("python", "-c", code).strip() == "True"


def test_real_sequences_from_jpegs_to_figures(project: Project, real_davis: Path, tmp_path: Path) -> None:
    shown = project.check(
        *("ditf", "davis", "--data_path", str(real_davis), "--output_dir", str(tmp_path)),
        *["--img_size", "160", "--ensemble_size", "1", "--cd", "--model", "cache/tiny-flux"],
    )
    assert "J and F over all objects" in shown
    jf = json.loads((tmp_path / "jf.json").read_text())["adaln+discard"]
    assert jf["J&F-Mean"] > 0.1
    assert (tmp_path / "pictures/car-shadow.gif").is_file()
    project.check("git", "checkout", "params.yaml")
    project.check("dvc", "repro", without=TORCH)
