"""The whole pipeline under DVC, as a user runs it.

Where a model must not run, `diffusers` cannot be imported: a stage that needed it would fail.
"""

import contextlib
import functools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from ditf.backbones.source import MINIATURE_FOLDER
from ditf.data.masks import read_index_mask
from tests.conftest import BLOCK, MODELS, TORCH, Project, contents, new_project, pck_by_viewpoint


def metrics(project: Project, task: str = "spair-flux") -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((project.folder / f"results/{task}/metrics.json").read_text())
    return found


def stages_run(output: str) -> set[str]:
    """The stages that ran, but for those that always do."""
    names = {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}
    return names - {"entries"}


def test_results_of_the_default(finished: Project) -> None:
    pck = metrics(finished)
    assert list(pck) == ["original", "adaln", "adaln+discard"]
    assert pck["adaln+discard"]["point@0.1"] > pck["original"]["point@0.1"]
    rows = (finished.folder / f"results/analysis/spair-flux/block{BLOCK}.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows if row.endswith(",1")} == {"37", "141", "186"}
    easy, medium, hard = pck_by_viewpoint(finished, "spair-flux", "adaln+discard").values()
    assert easy >= 85 and easy > medium > hard
    jf = metrics(finished, "davis-flux")["adaln+discard"]
    assert 0.2 < jf["J&F"] < 1
    assert all(np.isfinite(value) for value in jf.values())
    assert metrics(finished, "photos-search")["adaln+discard"]["recall@10"] == 1


def test_the_submission_folder_has_every_frame_of_every_sequence(finished: Project) -> None:
    truth = finished.folder / "data/sample/DAVIS/Annotations/480p"
    submission = finished.folder / "results/davis-flux/predictions/adaln+discard"
    names = {path.relative_to(truth) for path in truth.rglob("*.png")}
    assert {path.relative_to(submission) for path in submission.rglob("*.png")} == names
    for name in names:
        ours, theirs = Image.open(submission / name), Image.open(truth / name)
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
        if name.stem == "00000":
            np.testing.assert_array_equal(read_index_mask(submission / name), read_index_mask(truth / name))


def test_visualizations_are_made(finished: Project) -> None:
    results = finished.folder / "results"
    for name in ("best", "median", "worst"):
        assert Image.open(results / f"spair-flux/visualizations/matches_{name}.png").size[0] >= 800
    for sequence in ("one-disc", "two-cross", "three-turn"):
        with Image.open(results / f"davis-flux/visualizations/{sequence}.gif") as animation:
            assert getattr(animation, "n_frames", 1) >= 8
        assert (results / f"davis-flux/visualizations/{sequence}.png").is_file()
    for task in ("spair-flux", "davis-flux"):
        assert (results / task / "visualizations/features.png").is_file()
    assert (results / "photos-search/visualizations/search_0.png").is_file()
    assert (results / f"analysis/davis-flux/block{BLOCK}.png").is_file()


@pytest.mark.slow
def test_a_second_run_changes_nothing(finished: Project) -> None:
    compiled = finished.folder / "pipeline/ditf/tasks/__pycache__"
    compiled.mkdir(exist_ok=True)  # which importing a module writes
    (compiled / "propagation.cpython-311.pyc").write_bytes(b"bytecode")
    assert stages_run(finished.check("dvc", "repro", without=TORCH)) == set()
    assert "up to date" in finished.check("dvc", "status", "catalog@spair")


def test_the_store_is_not_held_twice(finished: Project) -> None:
    assert (finished.folder / f"cache/features/spair-flux/block{BLOCK}/tokens/c.0.0.0").stat().st_nlink >= 2


@pytest.mark.slow
def test_metrics_never_run_a_model_nor_import_torch(project: Project) -> None:
    before = metrics(project)
    project.set("tasks.spair-flux.score.alphas", [0.05, 0.1, 0.2])
    assert stages_run(project.check("dvc", "repro", without=TORCH)) == {"score@spair-flux", "report"}
    scored = metrics(project)
    assert scored != before
    project.set("tasks.spair-flux.predict.channels", [11])
    ran = stages_run(project.check("dvc", "repro", without=TORCH))
    assert ran == {"predict@spair-flux", "score@spair-flux", "draw@spair-flux", "report"}
    assert metrics(project) != scored
    project.check("git", "checkout", "params.yaml")
    assert stages_run(project.check("dvc", "repro", without=TORCH)) == set()
    assert metrics(project) == before


@pytest.mark.slow
def test_propagation_and_the_index_never_run_a_model(project: Project) -> None:
    project.set("tasks.davis-flux.predict.topk", 3)
    project.set("tasks.spair-search.predict.kind", "PCA32,IVF8,SQ8")
    ran = stages_run(project.check("dvc", "repro", without=MODELS))
    steps = {f"{step}@{task}" for step in ("predict", "score", "draw") for task in ("davis-flux", "spair-search")}
    assert ran == steps | {"report"}
    assert metrics(project, "spair-search")["adaln+discard"]["recall@10"] > 0.3


@pytest.mark.slow
def test_a_stage_needs_nothing_of_other_entries(project: Project) -> None:
    shutil.rmtree(project.folder / "data/sample/photos")
    shutil.rmtree(project.folder / "cache/features/photos-flux")
    project.set("tasks.spair-flux.score.alphas", [0.3])
    assert stages_run(project.check("dvc", "repro", "score@spair-flux", without=TORCH)) == {"score@spair-flux"}


@pytest.mark.slow
def test_two_models_side_by_side(project: Project) -> None:
    project.set("models.other-flux", {"type": "flux", "source": "tiny-1", "dtype": "auto"})
    project.set(
        "features.spair-other", project.params["features"]["spair-flux"] | {"model": "other-flux", "img_size": 96}
    )
    project.set("tasks.spair-other", project.params["tasks"]["spair-flux"] | {"features": "spair-other"})
    ran = stages_run(project.check("dvc", "repro", "score@spair-other", "score@spair-flux"))
    steps = ("text@spair-other", "features@spair-other", "predict@spair-other", "score@spair-other")
    assert ran == {*steps}
    assert metrics(project, "spair-other") != metrics(project)


@pytest.mark.slow
def test_earlier_features_come_back_and_staging_serves_experiments(project: Project) -> None:
    store, timestep = project.folder / "cache/features/photos-flux", "features.photos-flux.timestep"
    before = contents(store)
    first = project.check("dvc", "exp", "run", "-S", f"{timestep}=200", "features@photos-flux")
    assert "features@photos-flux" in stages_run(first)
    assert contents(store) != before
    project.check("dvc", "exp", "run", "-S", f"{timestep}=260", "features@photos-flux", without=TORCH)
    assert contents(store) == before
    assert "timestep" in project.check("dvc", "exp", "show", "--csv")
    # In a temporary folder, as `dvc queue` works, the staging of the project itself serves.
    home = project.folder / ".dvc/cache/ditf/features/photos-flux"
    known = {path.name for path in home.iterdir()}
    project.check("dvc", "exp", "run", "--temp", "-S", f"{timestep}=100", "features@photos-flux")
    assert {path.name for path in home.iterdir()} - known


@pytest.mark.slow
def test_an_experiment_keeps_the_comments_of_params_yaml(project: Project) -> None:
    shutil.copy(Path(__file__).parents[1] / "params.yaml", project.folder)
    before = (project.folder / "params.yaml").read_text()
    entry = "{type: correspondence, dataset: spair, features: spair-flux, predict: {block: 28}, score: {alphas: [0.2]}}"
    project.run("dvc", "exp", "run", "-S", f"+tasks.new={entry}", "-S", "sample.seed=0", "score@nothing")
    after = (project.folder / "params.yaml").read_text()
    assert after.count("#") == before.count("#")


@pytest.mark.slow
def test_push_and_pull_bring_everything_back_without_a_model(project: Project, tmp_path: Path) -> None:
    project.check("dvc", "remote", "add", "-f", "-d", "--local", "store", str(tmp_path / "remote"))
    project.check("dvc", "push")
    shutil.rmtree(project.folder / ".dvc/cache/files")  # but not the record of runs
    shutil.rmtree(project.folder / ".dvc/cache/ditf")
    for name in ("cache/features", "cache/text", "results", "catalogs"):
        shutil.rmtree(project.folder / name)
    project.check("dvc", "pull", without=TORCH)
    assert stages_run(project.check("dvc", "repro", without=TORCH)) == set()
    # On a laptop without the raw data: metrics, search and matching from what was pulled.
    shutil.rmtree(project.folder / "data")
    project.set("tasks.spair-flux.score.alphas", [0.3])
    project.set("tasks.davis-flux.predict.topk", 4)
    ran = stages_run(
        project.check("dvc", "repro", "--allow-missing", "score@spair-flux", "score@davis-flux", without=MODELS)
    )
    assert ran == {"score@spair-flux", "predict@davis-flux", "score@davis-flux"}
    search = project.run("ditf", "search", "cat/cat_00", "--at", "9,9", without=TORCH)
    assert search.returncode == 0
    assert "not here, so it is not drawn" in search.stderr
    project.check("ditf", "match", "cat/cat_00", "cat/cat_01", "--at", "9,9", without=TORCH)
    project.check("ditf", "search", "animal/cat.jpg", "--task", "spair-search", without=TORCH)  # of another data set


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP for reading, as `python -m http.server` does. Yields its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """A handler that writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_a_clone_pulls_over_http_and_scores_without_a_model(project: Project, tmp_path: Path) -> None:
    """Follow docs/how-to/share-a-cache.md: a shared folder to push to, which a web server offers for reading."""
    project.check("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    project.check("dvc", "push")
    project.check("git", "add", ".dvc/config", "dvc.lock")
    project.check("git", "commit", "-qm", "remote")
    clone, scorer = Project(tmp_path / "clone"), Project(tmp_path / "scorer")
    for copy in (clone, scorer):
        project.check("git", "clone", "-q", str(project.folder), str(copy.folder))
    assert not (clone.folder / "cache/features").exists()
    with served(tmp_path / "remote") as address:
        for copy in (clone, scorer):
            copy.check("dvc", "remote", "modify", "--local", "storage", "url", address)
        clone.check("dvc", "pull", without=TORCH)
        assert contents(clone.folder / "cache/features") == contents(project.folder / "cache/features")
        assert stages_run(clone.check("dvc", "repro", "--pull", without=TORCH)) == set()
        # To score again, the predictions and the catalog are enough.
        scorer.check("dvc", "pull", "predict@spair-flux", "catalog@spair", without=TORCH)
    assert not (scorer.folder / "data").exists()
    scorer.set("tasks.spair-flux.score.alphas", [0.3])
    again = scorer.check("dvc", "repro", "--allow-missing", "score@spair-flux", without=TORCH)
    assert stages_run(again) == {"score@spair-flux"}
    assert "@0.3" in scorer.check("ditf", "results")


def add_image(project: Project, number: int) -> None:
    folder = project.folder / "photos"
    Image.new("RGB", (60 + number, 40), (number * 30, 0, 0)).save(folder / f"{number}.png")


def photos(project: Project) -> str:
    return project.stages("entries", "catalog@photos", "text@photos-flux", "features@photos-flux")


@pytest.mark.slow
def test_added_images_are_the_only_ones_extracted_whatever_came_between(project: Project) -> None:
    shutil.copytree(project.folder / "data/sample/photos", project.folder / "photos")
    project.set("datasets.photos.root", "photos")
    add_image(project, 0)
    project.set("features.photos-flux.timestep", 200)
    assert "7 of 7 images" in photos(project)
    project.set("features.photos-flux.timestep", 260)
    assert "1 of 7 images" in photos(project)  # of an earlier store
    # As in a pulled clone: nothing in staging, the current store in DVC's cache.
    shutil.rmtree(project.folder / ".dvc/cache/ditf")
    add_image(project, 1)
    assert "1 of 8 images" in project.check("dvc", "repro", "features@photos-flux")


def test_a_finished_store_that_dvc_does_not_hold_is_kept(project: Project) -> None:
    home = project.folder / ".dvc/cache/ditf/features/photos-flux"
    project.set("features.photos-flux.timestep", 200)
    assert "6 of 6 images" in project.stages("features@photos-flux")
    for number in range(5):  # unfinished, and older
        (home / f"{number}").mkdir()
        os.utime(home / f"{number}", (number, number))
    project.set("features.photos-flux.timestep", 210)
    assert "6 of 6 images" in project.stages("features@photos-flux")
    assert len([path for path in home.iterdir() if path.is_dir()]) == 4  # the current one, and the newest three others
    project.set("features.photos-flux.timestep", 200)
    assert "0 of 6 images" in project.stages("features@photos-flux")


def test_staging_can_lie_elsewhere(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITF_STAGING", str(tmp_path / "staging"))
    project.stages("features@photos-flux")
    assert list((tmp_path / "staging/features/photos-flux").glob("*/complete"))


def test_weights_changed_in_place_are_noticed(project: Project) -> None:
    model = project.folder / "weights"
    shutil.copytree(MINIATURE_FOLDER, model)
    project.set("models.miniature.source", "weights")
    assert "0 of 6 images" in photos(project)  # the same weights elsewhere
    change_weights(model)
    command = ("ditf", "search", make_query(project), "--task", "photos-search")
    assert "its files changed since it was pinned" in project.fail(*command)
    assert "6 of 6 images" in photos(project)


def change_weights(model: Path) -> None:
    """Change one weight, in place, and nothing that a listing shows but the time."""
    from safetensors.torch import load_file, save_file

    path = model / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["x_embedder.weight"][0, 0] += 1
    save_file(tensors, path)


def make_query(project: Project) -> str:
    path = project.folder.parent / "query.png"
    Image.new("RGB", (50, 40), "green").save(path)
    return str(path)


def test_a_query_of_another_model_is_refused(project: Project) -> None:
    project.set("models.miniature.source", "tiny-1")
    command = ("ditf", "search", make_query(project), "--task", "photos-search")
    assert "is not what was pinned" in project.fail(*command)
    assert not list((project.folder / "cache").glob("queries/*/*"))


def test_an_image_replaced_after_the_catalog_is_refused(project: Project) -> None:
    Image.new("RGB", (320, 213), "red").save(project.folder / "data/sample/photos/animal/cat.jpg")
    assert "changed since the catalog" in project.fail("ditf", "search", "animal/cat.jpg", "--at", "1,1")
    shutil.rmtree(project.folder / ".dvc/cache")
    stage = ("python", "-m", "stages.features", "photos-flux")
    assert "cat.jpg: changed since the catalog was made" in project.fail(*stage)


def test_plots_and_metrics_show(finished: Project, tmp_path: Path) -> None:
    assert "adaln+discard" in finished.check("dvc", "metrics", "show")
    page = Path(finished.check("dvc", "plots", "show", "-o", str(tmp_path)).strip().removeprefix("file://"))
    assert "astronaut" in page.read_text()


def test_the_graph_reads_as_documented(finished: Project) -> None:
    lines = [line.strip() for line in finished.check("dvc", "dag", "--mermaid").splitlines()]
    edges = [line for line in lines if "-->" in line]
    names = {key: name.strip('"]') for key, _, name in (line.partition("[") for line in lines if "[" in line)}
    found = {tuple(names[node] for node in edge.split("-->")) for edge in edges}
    assert found >= {
        ("sample", "catalog@spair"),
        ("catalog@spair", "text@spair-flux"),
        ("entries", "text@spair-flux"),
        ("text@spair-flux", "features@spair-flux"),
        ("features@spair-flux", "analysis@spair-flux"),
        ("features@spair-flux", "predict@spair-flux"),
        ("predict@spair-flux", "score@spair-flux"),
        ("predict@spair-flux", "draw@spair-flux"),
        ("features@davis-flux", "predict@davis-flux"),
    }
    assert not {edge for edge in found if "photos" in edge[0] and "spair" in edge[1]}


def test_a_misspelt_parameter_stops_every_run(project: Project) -> None:
    project.set("tasks.spair-flux.score.aplhas", [0.1])
    for command in (("dvc", "repro"), ("ditf", "results"), ("ditf", "plan"), ("ditf", "verify")):
        done = project.run(*command)
        assert done.returncode != 0
        assert "tasks.spair-flux.score.aplhas: unknown parameter" in done.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("features", "0 arguments given; expected: an entry of features"),
        ("sample spair", "1 arguments given; expected: none"),
        ("catalog nothing", "datasets has no entry 'nothing'. Use spair, davis, photos"),
    ],
)
def test_wrong_arguments_of_a_stage_end_with_one_line(finished: Project, command: str, expected: str) -> None:
    errors = finished.fail("python", "-m", *f"stages.{command}".split())
    assert errors.count("\n") == 1
    assert expected in errors


def test_a_stage_run_by_hand_does_not_write_through_hard_links(project: Project, tmp_path: Path) -> None:
    """The outputs may be hard links into DVC's cache."""
    results = project.folder / "results/spair-flux"
    outputs = [results / name for name in ("run.json", "metrics.json", "plot.csv")]
    outputs += [*(results / "tables").iterdir(), *(project.folder / "catalogs/spair").iterdir()]
    cached = {path: tmp_path / f"{number}" for number, path in enumerate(outputs)}
    for path, copy in cached.items():
        copy.hardlink_to(path)
    project.stages("catalog@spair", "predict@spair-flux", "score@spair-flux")
    assert not [path for path, copy in cached.items() if path.samefile(copy)]
    assert all(path.read_bytes() == copy.read_bytes() for path, copy in cached.items())


def test_two_extractions_at_once_do_not_mix(project: Project) -> None:
    folder = next(p for p in (project.folder / ".dvc/cache/ditf/features/photos-flux").iterdir() if p.is_dir())
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        assert "another process is computing this" in project.fail("python", "-m", "stages.features", "photos-flux")


def test_nothing_reports_home(finished: Project) -> None:
    assert finished.check("dvc", "config", "core.analytics").strip() == "false"
    code = "import ditf, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    assert finished.check("python", "-c", code).strip() == "True"


def test_metrics_are_never_nan(finished: Project) -> None:
    for path in (finished.folder / "results").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_store_of_the_old_format_is_refused(project: Project) -> None:
    import zarr

    path = project.folder / "cache/features/photos-flux"
    shutil.rmtree(path)
    zarr.open_group(path, mode="w", attributes={"format": "ditf-features", "version": 2})
    errors = project.fail("python", "-m", "stages.analysis", "photos-flux")
    assert errors.count("\n") == 1
    assert "format version 2" in errors
    assert "dvc repro -f features@photos-flux" in errors


@pytest.mark.slow
def test_the_default_runs_where_only_the_package_is_installed(finished: Project, tmp_path: Path) -> None:
    """`ditf init` lays out the stages and parameters in an empty folder. The pipeline has its own processes here."""
    empty = Project(tmp_path / "empty")
    empty.folder.mkdir()
    empty.check("git", "init", "-q")
    empty.check("ditf", "init")
    assert "not empty" in empty.fail("ditf", "init")
    stages = empty.check("dvc", "stage", "list", "--name-only").split()
    assert stages == finished.check("dvc", "stage", "list", "--name-only").split()
    for name, value in (("ensemble_size", 1), ("img_size", 96)):
        empty.set(f"features.photos-flux.{name}", value)
    empty.check("dvc", "repro", "predict@photos-search")
    rows = json.loads(empty.check("ditf", "search", "animal/cat.jpg", "--at", "150,100", "--json"))
    images = [row["image"] for row in rows]
    assert images and "animal/cat.jpg" not in images, "a search by a point leaves out the image itself"
    assert "photos-flux: intact, 6 items" in empty.check("ditf", "verify")


def test_the_finished_project_was_not_changed(finished: Project) -> None:
    assert "nothing to commit" in finished.check("git", "status")


def test_a_fresh_project_plans_before_anything_is_run(tmp_path: Path) -> None:
    made = new_project(tmp_path / "fresh")
    for section in ("features", "tasks"):  # one entry, since each is counted anew
        name = "photos-flux" if section == "features" else "photos-search"
        made.set(section, {name: made.params[section][name]})
    assert "features on disk" in made.check("ditf", "plan")
    made.set("models.dino", {"type": "vit", "source": "tiny-0"})
    made.set("features.photos-flux", {"dataset": "photos", "model": "dino", "img_size": 168, "blocks": [2]})
    made.set("tasks.photos-search.predict", {"block": 2, "descriptors": ["original"], "kind": "auto"})
    many = made.check("ditf", "plan", "--images", "10000000000", "--size", "500,375")
    assert "10,000,000,000" in many
    for wrong in (["--images", "5"], ["--images", "5", "--size", "5"], ["--images", "5", "--size", "0,5"]):
        made.fail("ditf", "plan", *wrong)


def test_a_project_without_features_has_an_empty_report(tmp_path: Path) -> None:
    made = new_project(tmp_path / "fresh")
    document = made.params | {"features": {}, "tasks": {}, "fusions": {}, "sweeps": {}}
    document["datasets"] = {"photos": document["datasets"]["photos"]}
    (made.folder / "params.yaml").write_text(yaml.safe_dump(document))
    made.check("dvc", "repro")
    assert (made.folder / "report.html").is_file()
    del document["features"], document["tasks"]
    (made.folder / "params.yaml").write_text(yaml.safe_dump(document))
    assert "params.yaml: features: missing. Add it." in made.run("dvc", "repro").stderr
