"""Shared fixtures: golden answers where they are present, a tiny model, and projects in which commands run."""

import contextlib
import io
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from typer.testing import CliRunner

from ditf.data.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of several test processes: they share the cores
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
MODELS = ("diffusers", "transformers")  # the libraries that run a model
TORCH = ("torch", *MODELS)
BLOCK = 7  # the block that the tests' projects read, as the default does


@pytest.fixture(scope="session")
def golden() -> Path:
    """Answers computed by the published programs."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the golden answers are not here")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def real_davis() -> Path:
    """Two real sequences of DAVIS-2017."""
    if not (SHARED / "data" / "DAVIS").is_dir():
        pytest.skip("the real sequences are not here")
    return SHARED / "data" / "DAVIS"


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tiny models in a folder that all test processes share, and let commands print 100 columns."""
    os.environ["XDG_CACHE_HOME"] = str(shared_folder(tmp_path_factory) / "home")
    os.environ["COLUMNS"] = "100"


@pytest.fixture(scope="session")
def tiny_flux() -> Path:
    """The tiny FLUX, as a diffusers folder."""
    from ditf.backbones.source import local_folder

    return local_folder("flux", "tiny-0")


@pytest.fixture(scope="session")
def quantizers() -> None:
    """The libraries that quantize and slow down imports of diffusers. `make test EXTRA=cpu,quantize` adds them."""
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")


class Project:
    """A copy of the project, with git and DVC, in which commands run as a user runs them.

    `ditf` and the stages run in the test process, all other commands (`dvc`, `git`) in a process of their own.

    Args:
        folder: The project's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self, without: tuple[str, ...] = ()) -> dict[str, str]:
        """Return the environment of a command in a process of its own.

        Args:
            without: Modules whose import fails there.
        """
        path = [str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = os.environ | {"PATH": os.pathsep.join(path)}
        if without:
            poison = self.folder.parent / "-".join(("without", *without))
            for name in without:
                (poison / name).mkdir(parents=True, exist_ok=True)
                (poison / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')\n")
            python_path = [str(poison), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))
        return environment

    def run(self, *command: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command: `ditf` and stages in this process unless `without` names modules, others in their own."""
        if not without and command[0] == "ditf":
            return self.ditf(*command[1:])
        if not without and command[:2] == ("python", "-m") and command[2].startswith("stages."):
            return self.stage(command[2].removeprefix("stages."), *command[3:])
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(without), capture_output=True, text=True, timeout=600
        )

    def ditf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ditf` in this process."""
        from ditf.cli.app import app

        with inside(self.folder):
            result = CliRunner().invoke(app, arguments, prog_name="ditf", catch_exceptions=False)
        return subprocess.CompletedProcess(["ditf", *arguments], result.exit_code, result.stdout, result.stderr)

    def stage(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a stage in this process, as `python -m stages.NAME` does."""
        stdout, stderr, status = io.StringIO(), io.StringIO(), 0
        with inside(self.folder) as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            patch.setattr(sys, "argv", [name, *arguments])
            warnings.filterwarnings("ignore", "'stages", RuntimeWarning)  # a test may have imported the stage
            try:
                runpy.run_module(f"stages.{name}", run_name="__main__")
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return subprocess.CompletedProcess([name, *arguments], status, stdout.getvalue(), stderr.getvalue())

    def stages(self, *names: str) -> str:
        """Run stages in this process, one after another; all must succeed. Returns their output.

        Args:
            *names: The stages as DVC names them, such as "entries" or "predict@spair-flux".
        """
        return "".join(self.check("python", "-m", *f"stages.{name}".split("@")) for name in names)

    def check(self, *command: str, without: tuple[str, ...] = ()) -> str:
        """Run a command that must succeed. Returns its output."""
        done = self.run(*command, without=without)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def fail(self, *command: str) -> str:
        """Run a command that must fail with status 2 and without a traceback. Returns its errors."""
        done = self.run(*command)
        assert done.returncode == 2, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stderr

    @property
    def params(self) -> dict[str, Any]:
        """The content of params.yaml."""
        document: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text())
        return document

    def set(self, path: str, value: Any) -> None:
        """Set a parameter, such as "tasks.spair-flux.score.alphas"."""
        document = place = self.params
        *parents, last = path.split(".")
        for key in parents:
            place = place[key]
        place[last] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Work in a project's folder as a new process would, and undo what commands change in this process."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield patch
    for name, module in list(sys.modules.items()):  # the user's own modules, which another project may have, too
        places = [vars(module).get("__file__"), *(vars(module).get("__path__") or ())]
        if any(place and Path(place).is_relative_to(folder) for place in places):
            del sys.modules[name]


def new_project(folder: Path) -> Project:
    """Copy the project's files into a folder, and make the embedded default smaller."""
    folder.mkdir(parents=True)
    for name in ("stages", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "published.csv", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("cache", "catalogs"):
        (folder / name).mkdir()
        shutil.copy(ROOT / name / ".gitignore", folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    project = Project(folder)
    document = project.params
    for entry in document["features"].values():
        entry["ensemble_size"] = 2
    document["features"]["davis-flux"]["img_size"] = 96  # the videos have most images
    (folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    project.check("git", "init", "-q")
    project.check("git", "config", "user.name", "test")
    project.check("git", "config", "user.email", "test@example.invalid")
    project.check("git", "add", "-A")
    project.check("git", "commit", "-qm", "start")
    return project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which `dvc repro` has run, made once for all test processes. Tests do not change it.

    It is made once per session. While you work on tests, the environment variable TEST_PROJECT can name a folder that
    keeps it between sessions; remove the folder after changes of the code that alter what the project contains.
    """
    folder = Path(os.environ.get("TEST_PROJECT") or shared_folder(tmp_path_factory) / "finished").absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "ran").exists():
            shutil.rmtree(folder, ignore_errors=True)
            project = new_project(folder / "project")
            project.check("dvc", "repro")
            project.check("git", "add", "-A")
            project.check("git", "commit", "-qm", "run")
            copy_project(folder / "project", folder / "untouched")
            (folder / "ran").touch()
    return Project(folder / "project")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project that a test may change."""
    copy_project(finished.folder.parent / "untouched", tmp_path / "project")
    return Project(tmp_path / "project")


def copy_project(source: Path, target: Path) -> None:
    """Copy a project. Features remain hard links to the objects in DVC's cache."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def pck_by_viewpoint(project: Project, task: str, descriptor: str) -> dict[str, float]:
    """Return PCK@0.1 per point of the sample's easy pairs ("0") and of its hard ones ("1" and "2")."""
    return {
        row["value"]: float(row["point"])
        for row in read_table(project.folder / "results" / task / "tables/pck.csv")
        if (row["rule"], row["group"], row["alpha"], row["descriptor"])
        == ("box", "viewpoint_variation", "0.1", descriptor)
    }


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder that all test processes share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests of the finished project first: one test process makes it while the others run tests without it."""
    items.sort(key=lambda item: "finished" not in getattr(item, "fixturenames", ()))


def pytest_configure(config: pytest.Config) -> None:
    """Test on the CPU of any machine. `pytest -m gpu` runs the tests of a GPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
