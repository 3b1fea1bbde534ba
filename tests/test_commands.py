"""The command `ditf`: the published commands, results, search and match."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ditf.cli.app import app
from ditf.features.store import FeatureStore
from ditf.files import fingerprint
from tests.conftest import TORCH, Project


def test_results(project: Project) -> None:
    shown = project.check("ditf", "results", without=TORCH)
    assert "spair-flux: PCK by category" in shown
    assert "results of the miniature" in shown and "tiny random model" not in shown
    assert "results/spair-flux/visualizations/matches_best.png" in shown
    assert "All results on one page: report.html" in shown
    assert "stale" not in shown and "differ from the last commit" not in shown
    jf = json.loads((project.folder / "results/davis-flux/metrics.json").read_text())["adaln+discard"]["J&F"]
    assert f"{100 * jf:.1f}" in shown  # in percent, like PCK
    project.set("tasks.spair-flux.score.alphas", [0.2])
    changed = project.check("ditf", "results")
    assert "spair-flux is stale: run `dvc repro` (tasks.spair-flux.score.alphas changed)" in changed
    assert "davis-flux is stale" not in changed
    assert "tasks.spair-flux.score.alphas: [0.05, 0.1, 0.15] -> [0.2]" in changed
    project.set("models.miniature.source", "tiny-0")
    assert "two massive channels were planted" in project.check("ditf", "results")


def test_results_are_stale_after_an_edit_upstream(project: Project) -> None:
    project.set("features.spair-flux.seed", 1)
    errors = project.run("ditf", "search", "cat/cat_00", "--task", "spair-search").stderr
    assert "spair-search is stale: run `dvc repro`" in errors
    shown = project.check("ditf", "results")
    assert "spair-flux is stale" in shown and "spair-search is stale" in shown
    assert "photos-search is stale" not in shown


def test_piped_tables_are_not_cut(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "facebook/dinov3-vitb16-pretrain-lvd1689m" in project.check("ditf", "models")
    (project.folder / "results/spair-flux/tables/pck.csv").unlink()
    (project.folder / "results/spair-flux/tables/pck.csv").write_text(
        "descriptor,group,alpha,value,image,point,pairs,keypoints,rule\n"
        "adaln,category,0.1,cat [edited] [/b],50,40,7,46,box\n"
        "adaln,by_season,0.1,summer,51,41,7,46,box\n"
        "adaln,by_season,0.1,winter,52,42,7,46,box\n"
    )
    shown = project.check("ditf", "results")
    assert "cat [edited] [/b]" in shown
    assert "by season: summer" in shown and "by season: winter" in shown


def test_help_has_an_example_of_every_command_and_needs_no_library() -> None:
    """Help must be fast, so that it imports none of the libraries that only some commands need."""
    code = (
        "import sys; from typer.testing import CliRunner; from ditf.cli.app import app; run = CliRunner().invoke\n"
        "names = [c.name or c.callback.__name__ for c in app.registered_commands]\n"
        "nested = [['prepare', 'ap10k'], ['export', 'table'], ['export', 'results']]\n"
        "helps = [run(app, [*words, '--help']).output for words in ([], *([n] for n in names), *nested)]\n"
        "assert all('Example' in text and 'ditf ' in text for text in helps), helps\n"
        "assert not any(line.endswith('...') for line in helps[0].splitlines()[1:]), helps[0]\n"
        "print(*({'torch', 'zarr', 'pyarrow', 'numpy', 'ruamel', 'dvc', 'ditf.settings'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_version(finished: Project) -> None:
    assert finished.check("ditf", "--version").strip() == importlib.metadata.version("ditf")


def found(project: Project, *command: str, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(project.check("ditf", *command, "--json", without=without))
    return rows


def test_search_a_point_a_region_and_a_whole_image(project: Project, tmp_path: Path) -> None:
    rows = found(project, "search", "cat/cat_00", "--at", "150,100", "--k", "3")
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert len({"cat/cat_00", *(row["image"] for row in rows)}) == 4
    rows = found(project, "search", "cat/cat_00", "--at", "150,100", "--all", "--k", "3")
    assert rows[0]["image"] == "cat/cat_00"
    assert np.abs(np.subtract(rows[0]["point"], (150, 100))).max() <= 32
    with Image.open(project.folder / "results/drawings/search_cat-cat_00_150-100_all.png") as sheet:
        assert sheet.width > 600
    drawing = tmp_path / "new/sheet.png"
    assert len(found(project, "search", "cat/cat_00", "--box", "140,90,141,91", "--out", str(drawing))) == 10
    assert drawing.is_file()
    boxes = [row["box"] for row in found(project, "search", "cat/cat_00", "--box", "96,64,160,128")]
    assert {(round(x1 - x0, 1), round(y1 - y0, 1)) for x0, y0, x1, y1 in boxes} != {(16, 16)}
    assert "cat/cat_00" not in [row["image"] for row in found(project, "search", "cat/cat_00", "--k", "4")]
    rows = found(project, "search", "cat/cat_00", "--k", "4", "--all")
    assert rows[0]["image"] == "cat/cat_00"
    assert rows[0]["similarity"] == pytest.approx(1, abs=1e-4)


def test_search_gives_what_there_is(project: Project) -> None:
    assert len(found(project, "search", "cat/cat_00", "--at", "150,100", "--per-image", "--k", "9999999")) == 67
    assert len(found(project, "search", "cat/cat_00", "--k", "68")) == 67


def test_search_with_any_file_and_across_data_sets(project: Project, tmp_path: Path) -> None:
    photo = project.folder / "data/sample/photos/animal/cat.jpg"
    copy = tmp_path / "a copy.jpg"
    copy.write_bytes(photo.read_bytes())
    flags = ["--at", "150,100", "--task", "photos-search"]
    known = found(project, "search", str(copy), *flags, without=TORCH)  # its bytes are known: no model
    assert known == found(project, "search", "animal/cat.jpg", *flags)
    assert len(found(project, "search", str(copy), "--task", "photos-search")) == 5  # all others
    with Image.open(photo) as image:
        image.crop((0, 0, 200, 150)).save(tmp_path / "part.png")
    command = ("search", str(tmp_path / "part.png"), *flags)
    first = found(project, *command)
    assert first[0]["rank"] == 1
    assert found(project, *command, without=TORCH) == first  # kept: no model
    assert found(project, "search", "cat/cat_00", *flags)[0]["image"] == "animal/cat.jpg"  # an image of the other set
    # Queries are kept by the settings that made them, whatever images the store has: none is lost when some are added.
    store = FeatureStore(project.folder / "cache/features/photos-flux")
    (kept,) = (project.folder / "cache/queries").iterdir()
    assert kept.name == fingerprint(store.attributes["extraction_config"])


def test_search_and_match_use_the_descriptor_that_was_indexed(project: Project) -> None:
    point = ("--at", "150,100")
    before = [found(project, *c, *point) for c in (("search", "cat/cat_00"), ("match", "cat/cat_00", "cat/cat_01"))]
    project.set("tasks.spair-search.predict.descriptors", ["original"])
    after = [found(project, *c, *point) for c in (("search", "cat/cat_00"), ("match", "cat/cat_00", "cat/cat_01"))]
    assert before == after  # until the index is built anew


def test_match(project: Project) -> None:
    rows = found(project, "match", "cat/cat_00", "cat/cat_00", "--at", "150,100", "--at", "90,60")
    assert [row["point"] for row in rows] == [[150, 100], [90, 60]]
    for row in rows:
        assert row["match"] == row["point"]
        assert row["similarity"] == pytest.approx(1, abs=1e-4)
    assert "similarity" in project.check("ditf", "match", "cat/cat_00", "cat/cat_01", "--at", "1,1")
    drawings = {path.name for path in (project.folder / "results/drawings").glob("match_*")}
    assert len(drawings) == 2  # by their points, too: none overwrites another


def test_match_needs_features_and_no_index(project: Project) -> None:
    command = ("match", "cat/cat_00", "cat/cat_03", "--at", "150,100")
    indexed = found(project, *command)
    shutil.rmtree(project.folder / "results/spair-search/predictions")
    shutil.rmtree(project.folder / "results/photos-search/predictions")
    assert found(project, *command) == indexed
    shutil.rmtree(project.folder / "cache/features")
    error = project.fail("ditf", *command)
    assert "no features yet. Run `dvc repro`." in error
    assert "index" not in error


def test_a_file_of_a_data_set_finds_its_task(project: Project) -> None:
    (project.folder / "data/sample/photos/notes.txt").write_text("not an image")
    rows = found(project, "search", "data/sample/photos/animal/cat.jpg", "--at", "150,100", "--k", "2")
    assert rows == found(project, "search", "animal/cat.jpg", "--at", "150,100", "--k", "2")
    assert "not a readable image" in project.fail("ditf", "search", "data/sample/photos/notes.txt")


def test_a_drawing_that_cannot_be_written_loses_no_result(project: Project) -> None:
    shutil.rmtree(project.folder / "results/drawings", ignore_errors=True)
    (project.folder / "results/drawings").write_text("a file in the place of the folder")
    for command in (("search", "cat/cat_00"), ("match", "cat/cat_00", "cat/cat_03")):
        done = project.run("ditf", *command, "--at", "150,100")
        assert done.returncode == 0, done.stderr
        assert "cat/cat_03" in done.stdout or "similarity" in done.stdout
        assert done.stderr.startswith("warning: results/drawings")


def test_features_of_a_file_that_cannot_be_kept_are_used(project: Project, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((200, 150)).convert("RGB").save(tmp_path / "new.png")
    shutil.rmtree(project.folder / "cache/queries", ignore_errors=True)
    (project.folder / "cache/queries").write_text("a file in the place of the folder")
    for command in (
        ("search", str(tmp_path / "new.png"), "--task", "spair-search"),
        ("match", "cat/cat_00", str(tmp_path / "new.png")),
    ):
        done = project.run("ditf", *command, "--at", "50,50")
        assert done.returncode == 0, done.stderr
        assert "similarity" in done.stdout
        assert done.stderr.startswith("warning: cache/queries")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("search nowhere --at 1,1", "neither a file nor an image"),
        ("search cat_00 --at 1,1", "Did you mean cat/cat_00?"),
        ("search cat/cat_00 --at 999,1", "outside cat/cat_00, which is 320x213"),
        ("search cat/cat_00 --at 1", "give 2 whole numbers"),
        ("search cat/cat_00 --at a,b", "give 2 whole numbers"),
        ("search cat/cat_00 --box 9,9,9,20", "not a box inside"),
        ("search cat/cat_00 --at 1,1 --box 1,1,9,9", "give one of them"),
        ("search cat/cat_00 --k 0", "k is 0"),
        ("search cat/cat_00 --task nope", "has no entry 'nope'. Use spair-search, photos-search"),
        ("search cat/cat_00 --task spair-serch", "Did you mean spair-search?"),
        ("search cat/cat00", "Did you mean cat/cat_00?"),
        ("match cat/cat_00 ct/cat_01 --at 1,1", "Did you mean cat/cat_01?"),
        ("compare spair-flx spair-flux", "Did you mean spair-flux?"),
        ("compare spair-flux/original spair-flux/adlan", "Did you mean adaln?"),
        ("search params.yaml --task spair-search", "not a readable image"),
        ("search params.yaml", "not a readable image"),
        ("match cat/cat_00 nowhere --at 1,1", "neither a file nor an image"),
        ("match cat/cat_00 cat/cat_01 --at -1,1", "outside"),
        ("verify --features nope", "features has no entry 'nope'"),
    ],
)
def test_wrong_commands_end_with_one_line(finished: Project, command: str, expected: str) -> None:
    errors = finished.fail("ditf", *command.split())
    assert errors.count("\n") == 1
    assert expected in errors


def test_init_creates_a_repository_for_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments need a commit, also where the user has not told git a name; DVC sends no statistics."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.chdir(tmp_path)

    def init(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["init", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    def git(folder: str, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tmp_path / folder, capture_output=True, text=True).stdout

    assert "under git and DVC" in init("new")
    assert "params.yaml" in git("new", "ls-files") and git("new", "status", "--porcelain") == ""
    config = (tmp_path / "new/.dvc/config").read_text()
    assert "analytics = false" in config and 'type = "hardlink,' in config and "no_scm" not in config
    queued = subprocess.run([sys.executable, "-m", "dvc", "exp", "run", "--queue"], cwd=tmp_path / "new")
    assert queued.returncode == 0
    assert "without git" in init("plain", "--no-git")
    assert not (tmp_path / "plain/.git").exists()
    assert "no_scm = true" in (tmp_path / "plain/.dvc/config").read_text()
    assert "under git and DVC" in init("new/inner")  # the repository around it serves
    assert not (tmp_path / "new/inner/.git").exists()


@pytest.mark.slow
def test_the_package_works_where_nothing_else_is(tmp_path: Path) -> None:
    """As after `pip install .` in an empty environment: the library and the command, and no other package."""
    root = Path(__file__).parents[1]
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(target), str(root)], check=True, cwd=tmp_path, capture_output=True)
    packages = {path.name for path in target.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")}
    assert packages - {"bin"} == {"ditf"}
    assert (target / "ditf/template/stages/features.py").is_file()
    environment = os.environ | {"PYTHONPATH": str(target)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        entry = "import sys; from ditf.cli.app import app; sys.argv[0] = 'ditf'; app()"
        place = [sys.executable, "-S", "-c", f"import site; site.main(); {entry}", *words]
        return subprocess.run(place, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "features of diffusion transformers" in run("--help").stdout
    done = run("results")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Run inside a project" in done.stderr
