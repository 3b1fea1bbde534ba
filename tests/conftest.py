"""What the tests share: the golden answers where they are present, a tiny model, and a project that has run."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tests import forks

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
if "PYTEST_XDIST_WORKER" in os.environ:  # test processes side by side: with one thread each they do not wait for others
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
MODELS = ("diffusers", "transformers")  # what runs a model
TORCH = ("torch", *MODELS)
BLOCK = 2  # that the tests' projects read: a shallow one, whose pass is short
FORKS = "TEST_FORKS"  # the environment variable that names the folder of `tests.forks`


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
def _prepared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    """What test processes side by side share: a folder of tiny models; what commands run in; the finished project."""
    base, many = shared_folder(tmp_path_factory), "PYTEST_XDIST_WORKER" in os.environ
    os.environ["XDG_CACHE_HOME"] = str(base / "home")
    if not any(map(needs_project, request.session.items)):
        return
    with FileLock(base / "prepared.lock"):
        first = not (base / "forks").exists()
        if first and sys.platform == "linux":
            forks.start(base / "forks", os.getppid() if many else os.getpid())
    if sys.platform == "linux":
        os.environ[FORKS] = str(base / "forks")
    if first and many:
        code = "import sys; from tests.conftest import *; finish_project(Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(base / "finished")]
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def tiny_flux() -> Path:
    """The tiny FLUX, as a diffusers folder."""
    from ditf.backbones.source import local_folder

    return local_folder("flux", "tiny-0")


@pytest.fixture
def quantizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries that quantize; they lie apart, as they slow down every import of diffusers."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / ".venv" / "quantize")])
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")


def python() -> str:
    """The command that runs Python, in a fork where there are any."""
    if FORKS not in os.environ:
        return sys.executable
    return str(forks.wait_for(Path(os.environ[FORKS]) / forks.FULL) / "python")


class Project:
    """A copy of the project, with git and DVC, in which commands run as a user runs them.

    forked: whether they run in forks (`tests.forks`), where these are.
    """

    def __init__(self, folder: Path, forked: bool = True) -> None:
        self.folder, self.forked = folder, forked

    def environment(self, without: tuple[str, ...] = ()) -> dict[str, str]:
        """Of a command; importing one of the modules named in `without` fails there."""
        path = [str(ROOT / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        if self.forked and FORKS in os.environ:
            path.insert(0, str(forks.wait_for(Path(os.environ[FORKS]) / (forks.LIGHT if without else forks.FULL))))
        environment = os.environ | {"PATH": os.pathsep.join(path), "COLUMNS": "100"}
        if without:
            poison = self.folder.parent / "-".join(("without", *without))
            for name in without:
                (poison / name).mkdir(parents=True, exist_ok=True)
                (poison / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')\n")
            environment["PYTHONPATH"] = str(poison)
        return environment

    def run(self, *command: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(without), capture_output=True, text=True, timeout=600
        )

    def check(self, *command: str, without: tuple[str, ...] = ()) -> str:
        """Run a command that must succeed; returns what it printed."""
        done = self.run(*command, without=without)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def fail(self, *command: str) -> str:
        """Run a command that must fail as a user's mistake does, without a traceback; returns its errors."""
        done = self.run(*command)
        assert done.returncode == 2, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stderr

    @property
    def params(self) -> dict[str, Any]:
        """What params.yaml holds."""
        found: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text())
        return found

    def set(self, path: str, value: Any) -> None:
        """Set a parameter, such as "tasks.spair-flux.score.alphas"."""
        document = place = self.params
        *parents, last = path.split(".")
        for key in parents:
            place = place[key]
        place[last] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def new_project(folder: Path) -> Project:
    """The project's files in a folder, with the embedded default made smaller."""
    folder.mkdir(parents=True)
    for name in ("stages", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("cache", "catalogs"):
        (folder / name).mkdir()
        shutil.copy(ROOT / name / ".gitignore", folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    made = Project(folder)
    document = made.params
    for entry in document["features"].values():
        entry |= {"blocks": [BLOCK], "ensemble_size": 2, "img_size": 160}
    document["features"]["davis-flux"]["img_size"] = 96  # the videos have most images
    for entry in document["tasks"].values():
        entry["predict"]["block"] = BLOCK
    (folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    made.check("git", "init", "-q")
    made.check("git", "config", "user.name", "test")
    made.check("git", "config", "user.email", "test@example.invalid")
    made.check("git", "add", "-A")
    made.check("git", "commit", "-qm", "start")
    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run; not to be changed. Test processes side by side share it."""
    return finish_project(shared_folder(tmp_path_factory) / "finished")


def finish_project(folder: Path) -> Project:
    """Make the finished project, unless another process has; one that is making it is waited for."""
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "ran").exists():
            return Project(folder / "project")
        shutil.rmtree(folder, ignore_errors=True)
        made = new_project(folder / "project")
        made.check("dvc", "repro")
        made.check("git", "add", "-A")
        made.check("git", "commit", "-qm", "run")
        # In an archive, features stay hard links to the objects of DVC's cache.
        made.check("tar", "--format=pax", "-cf", "../project.tar", "--exclude=rwlock*", "-C", "..", "project")
        (folder / "ran").touch()
    return made


def needs_project(item: pytest.Item) -> bool:
    """Whether a test runs commands in a project."""
    return bool({"finished", "project"} & set(getattr(item, "fixturenames", ())))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the finished project come last: it is made while the others run."""
    items.sort(key=needs_project)


def pytest_configure(config: pytest.Config) -> None:
    """Tests are of the CPU, on any machine; `pytest -m gpu` runs those of a GPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What imports make is no garbage; looking through it would take a fifth of the time."""
    gc.disable()
    done = yield
    gc.freeze()
    gc.set_threshold(100_000)  # as in `tests.forks`
    gc.enable()
    return done


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that test processes side by side share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed; its files are copies, too, so that damage stays in it."""
    subprocess.run(["tar", "-xf", finished.folder.with_suffix(".tar"), "-C", tmp_path], check=True)
    return Project(tmp_path / "project")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
