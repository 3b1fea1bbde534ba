"""The docs' examples run as they stand, and the code is as the docs say."""

import csv
import doctest
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT, Project


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """(the line before, the code) of each fenced block of a page."""
    text = (ROOT / page).read_text()
    return re.findall(rf"([^\n]*)\n\n?```{language}\n(.*?)```", text, re.DOTALL)


def test_a_data_set_and_a_backbone_of_ones_own(project: Project) -> None:
    for before, code in blocks("docs/extending.md", "python"):
        path = project.folder / before.strip("`:")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    (_, entries) = blocks("docs/extending.md", "yaml")[0]
    for section, added in yaml.safe_load(entries).items():
        for name, entry in added.items():
            project.set(f"{section}.{name}", entry)
    data, rng = project.folder / "mydata", np.random.default_rng(0)
    data.mkdir()
    image = Image.fromarray(np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8))
    image.save(data / "a.png")
    image.save(data / "b.png")
    image.rotate(180).save(data / "c.png")
    columns = ("source", "target", "season", "source_x", "source_y", "target_x", "target_y")
    rows = [("a.png", "b.png", "summer", 50, 50, 50, 50), ("a.png", "c.png", "winter", 50, 50, 109, 69)]
    with (data / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    project.check("dvc", "repro", "score@mine-convnext")
    with (project.folder / "results/mine-convnext/tables/pck.csv").open() as file:
        scores = {(row["group"], row["value"]): float(row["point"]) for row in csv.DictReader(file)}
    assert scores["season", "summer"] == 100
    assert {group for group, _ in scores} == {"category", "season"}
    project.set("tasks.mine-convnext.predict.matcher", {"type": "mypackage.mean.Mean", "most": 3})
    project.check("dvc", "repro", "score@mine-convnext")
    # What such a class gets wrong, or an entry of it, is reported as any other.
    project.set("datasets.mine.pears", "x")
    assert "datasets.mine.pears: unknown parameter" in project.fail("ditf", "plan")


@pytest.mark.parametrize("word", ["spair", "davis", "flux", "sd3", "pixart", "qwen", "sana", "dinov2", "unet"])
def test_only_its_own_file_names_a_data_set_or_a_model(word: str) -> None:
    own = {"datasets/spair.py", "datasets/davis.py", f"backbones/{word}.py", "sample.py"}
    own |= {"commands/app.py", "commands/scripts.py"}  # the published commands
    own |= {"backbones/flux2.py", "backbones/qwen_image.py", "backbones/vit.py"}
    own |= {"features/extractor.py"}  # the default family of `Extractor.from_pretrained`
    for path in (*ROOT.glob("pipeline/ditf/**/*.py"), *ROOT.glob("stages/*.py")):
        name = (
            path.relative_to(ROOT / "pipeline/ditf").as_posix() if path.is_relative_to(ROOT / "pipeline") else path.name
        )
        if name in own or "parts/" in name or name.startswith("sample/"):
            continue
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
        assert word not in code.lower(), path


def test_the_examples_of_python_run(finished: Project) -> None:
    pages = ("README.md", "docs/formats.md", "docs/search.md", "docs/notebook.md")
    for page in pages:
        if not (ROOT / page).exists():
            continue
        for _, code in blocks(page, "python"):
            if "black-forest-labs" in code:
                continue
            done = subprocess.run(
                ["python", "-c", code], cwd=finished.folder, env=finished.environment(), capture_output=True, text=True
            )
            assert done.returncode == 0, (page, code, done.stderr)


def sessions(page: str) -> list[tuple[str, str]]:
    """(a command, what the page says that it prints) of each fenced block of commands."""
    found = []
    for block in re.findall(r"```\n(\$ .*?)```", (ROOT / page).read_text(), re.DOTALL):
        commands = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        found += [(command, printed) for command, _, printed in (text.partition("\n") for text in commands)]
    return found


def shape(printed: str) -> str:
    """Without what differs between models: numbers, and the images and pairs that numbers choose."""
    for pattern, name in ((r"\b[a-z]+/[a-z]+_\d+", "IMAGE"), (r"\b\d{6}-\S+", "PAIR"), ("─+", "─")):
        printed = re.sub(pattern, name, printed)
    return re.sub(r"[+-]?\d[\d,.]*(e[+-]?\d+)?", "0", printed)


@pytest.mark.parametrize("page", ["README.md", "docs/search.md", "docs/report.md"])
def test_commands_print_what_the_docs_show(project: Project, page: str) -> None:
    assert sessions(page)
    for command, expected in sessions(page):
        printed = project.check(*shlex.split(command))
        if command.startswith("dvc metrics"):  # which metrics differ is chosen by numbers, too
            expected, printed = (text.partition("\n")[0] for text in (expected, printed))
        assert not expected or same(shape(expected), shape(printed)), printed


def test_the_plan_is_that_of_the_docs(project: Project) -> None:
    shutil.copy(ROOT / "params.yaml", project.folder)
    project.set("models.tiny-flux.source", "black-forest-labs/FLUX.1-dev")
    for name, size in (("spair-flux", 640), ("photos-flux", 640), ("davis-flux", 960)):
        project.set(f"features.{name}.img_size", size)
    ((command, expected),) = sessions("docs/scaling.md")
    printed = project.check(*shlex.split(command))
    assert same(expected, printed), printed


def same(expected: str, printed: str) -> bool:
    """But for white space, and what "..." stands for."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected, printed, flags)


def test_every_parameter_is_documented() -> None:
    text = (ROOT / "docs/parameters.md").read_text()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    names = {
        key for section in ("models", "datasets", "features") for entry in params[section].values() for key in entry
    }
    for task in params["tasks"].values():
        names |= task["predict"].keys() | task["score"].keys()
    for name in names:
        assert f"`{name}`" in text, name


def test_links_of_the_docs_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "SECURITY.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_commands_of_the_readme_exist() -> None:
    from typer.testing import CliRunner

    from ditf.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for name in re.findall(r"^ *(?:\$ )?ditf ([a-z]+)", page.read_text(), re.MULTILINE):
            assert name in known, (page.name, name)
    for name in known:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
