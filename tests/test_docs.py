"""The examples of the documentation run as they stand, and the site builds."""

import csv
import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from ditf.cli.app import app
from ditf.data.catalog import Catalog
from ditf.data.masks import save_mask
from tests.conftest import BLOCK, ROOT, Project

PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *ROOT.glob("docs/**/*.md")])
NOTEBOOKS = sorted(ROOT.glob("docs/tutorials/*.ipynb"))
LANGUAGES = ("python", "yaml", "sh")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Return the line before each fenced block of a language, and the block's content."""
    return re.findall(rf"([^\n]*)\n\n?```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def entries_of(page: Path) -> list[tuple[str, str, dict[str, object]]]:
    """Return (section, name, entry) for all entries of `params.yaml` that a page shows."""
    documents = [YAML(typ="safe").load(code) for _, code in blocks(page, "yaml")]
    return [
        (section, name, entry)
        for document in documents
        for section, named in document.items()
        if isinstance(named, dict)
        for name, entry in named.items()
    ]


def write_modules(project: Project, page: Path) -> None:
    """Write the modules that a page shows into a project. The line before each block names its file."""
    for line, code in blocks(page, "python"):
        if re.fullmatch(r"`[\w/]+\.py`:", line):
            path = project.folder / line.strip("`:")
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)


def write_keypoint_data(folder: Path) -> None:
    """Write images and keypoints for the data set of the guide: one pair is equal, one is rotated."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3))
    image = Image.fromarray(np.kron(pixels, np.ones((20, 20, 1))).astype(np.uint8))
    image.save(folder / "a.png")
    image.save(folder / "b.png")
    image.rotate(180).save(folder / "c.png")
    columns = ("source", "target", "season", "source_x", "source_y", "target_x", "target_y")
    rows = [("a.png", "b.png", "summer", 50, 50, 50, 50), ("a.png", "c.png", "winter", 50, 50, 109, 69)]
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_scene(image: Path, mask: Path) -> None:
    """Write an image, and a mask with two classes."""
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "gray").save(image)
    save_mask(mask, np.repeat([[1], [0]], 15, 0).repeat(40, 1).astype(np.uint8))


def scores_by_group(project: Project, task: str) -> dict[tuple[str, str], float]:
    with (project.folder / "results" / task / "tables/pck.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rule"] == "box"]
    return {(row["group"], row["value"]): float(row["point"]) for row in rows}


@pytest.mark.slow
def test_the_guide_to_a_data_set(project: Project) -> None:
    page = ROOT / "docs/how-to/own-data-set.md"
    write_modules(project, page)
    write_keypoint_data(project.folder / "mydata")
    for section, name, entry in entries_of(page):
        project.set(f"{section}.{name}", entry)
    project.check("dvc", "repro", "score@mine-flux")
    scores = scores_by_group(project, "mine-flux")
    assert scores["season", "summer"] == 100
    assert {group for group, _ in scores} == {"category", "season"}
    scenes = project.folder / "scenes"
    for split in ("train", "test"):
        write_scene(scenes / split / f"{split}-1.jpg", scenes / "masks" / f"{split}-1.png")
    dataset = {"type": "mypackage.scenes.MyScenes", "root": "scenes"}
    project.set("datasets.scenes", dataset)
    project.check("dvc", "repro", "catalog@scenes")
    catalog = Catalog(project.folder / "catalogs/scenes")
    assert [(row["id"], row["category"]) for row in catalog.rows("images")] == [
        ("train/train-1", "train"),
        ("test/test-1", "test"),
    ]
    assert [row["name"] for row in catalog.rows("classes")] == ["road", "sky"]
    project.set("datasets.mine.pears", "x")
    assert "datasets.mine.pears: unknown parameter" in project.fail("ditf", "results")


@pytest.mark.slow
def test_the_guides_to_a_backbone_and_a_matcher(project: Project) -> None:
    for guide in ("own-backbone", "own-matcher"):
        write_modules(project, ROOT / f"docs/how-to/{guide}.md")
        for section, name, entry in entries_of(ROOT / f"docs/how-to/{guide}.md"):
            project.set(f"{section}.{name}", entry)
    project.set("tasks.spair-mean.predict.block", BLOCK)
    project.check("dvc", "repro", "score@mine-convnext", "score@spair-mean")
    assert scores_by_group(project, "mine-convnext")["category", "All"] > 0
    assert scores_by_group(project, "spair-mean")["category", "All"] > 0
    assert "mine-convnext" in project.check("ditf", "plan")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, finished: Project) -> None:
    resources = {"metadata": {"path": str(finished.folder)}}
    document = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(document, timeout=300, resources=resources).execute()


@pytest.mark.slow
def test_examples_of_python_run(finished: Project) -> None:
    count = 0
    for page in PAGES:
        for line, code in blocks(page, "python"):
            if "import ditf" not in code or re.fullmatch(r"`[\w/]+\.py`:", line):
                continue
            run = subprocess.run(
                [sys.executable, "-c", code],
                cwd=finished.folder,
                env=finished.environment(),
                capture_output=True,
                text=True,
            )
            assert run.returncode == 0, (page, code, run.stderr)
            count += 1
    assert count >= 4


def sessions(page: Path) -> list[tuple[str, str]]:
    """Return each command that a page shows with its output, and this output."""
    texts = re.findall(r"```\n(\$ .*?)```", page.read_text(), re.DOTALL)
    commands = [command for text in texts for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return [(command, printed) for command, _, printed in (command.partition("\n") for command in commands)]


SESSIONS = [page for page in PAGES if sessions(page)]


def layout(printed: str) -> str:
    """Replace what differs between models: numbers, and the images and pairs that they rank."""
    for pattern, name in ((r"\b[a-z]+/[a-z]+_\d+", "IMAGE"), (r"\b\d{6}-\S+", "PAIR"), ("─+", "─")):
        printed = re.sub(pattern, name, printed)
    return re.sub(r"[+-]?\d[\d,.]*(e[+-]?\d+)?", "0", printed)


def same(expected: str, printed: str) -> bool:
    """Compare outputs up to white space. An ellipsis stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(layout(expected), layout(printed), flags)


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS, ids=lambda path: path.stem)
def test_commands_print_what_the_pages_show(project: Project, page: Path) -> None:
    for command, expected in sessions(page):
        printed = project.check(*shlex.split(command))
        if command.startswith("dvc metrics"):  # numbers decide which metrics differ
            expected, printed = (text.partition("\n")[0] for text in (expected, printed))
        assert not expected or same(expected, printed), printed


def test_commands_of_the_pages_exist() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    for page in PAGES:
        shown = [line for _, code in blocks(page, "sh") for line in code.splitlines()]
        for name in re.findall(r"^ditf ([a-z]+)", "\n".join(shown), re.MULTILINE):
            assert name in known, (page, name)
    for name in known:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "SECURITY.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 900


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(https?:[^\"' >]+)", page.read_text())
        loaded += re.findall(r"<link[^>]*stylesheet[^>]*href=[\"']?(https?:[^\"' >]+)", page.read_text())
        assert loaded == [], page
