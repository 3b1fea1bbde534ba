"""What the tests share: the golden answers where they are present, a tiny model, and a project that has run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
FEATURES = "cache/features/folder"


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


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny FLUX, as a diffusers folder."""
    from pipeline.backbones import tiny

    folder = tmp_path_factory.mktemp("model") / "tiny-flux"
    tiny.build(folder, seed=0)
    return folder


class Project:
    """A copy of the project, with git and DVC, in which commands run as a user runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command; importing one of the modules named in `without` fails there."""
        path = [str(ROOT / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = os.environ | {"PATH": os.pathsep.join(path), "COLUMNS": "100"}
        if without:
            poison = self.folder.parent / "-".join(("without", *without))
            for name in without:
                (poison / name).mkdir(parents=True, exist_ok=True)
                (poison / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')\n")
            environment["PYTHONPATH"] = str(poison)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600)

    def check(self, *command: str, without: tuple[str, ...] = ()) -> str:
        """Run a command that must succeed; returns what it printed."""
        done = self.run(*command, without=without)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def set(self, old: str, new: str) -> None:
        """Change params.yaml."""
        path = self.folder / "params.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run on the embedded default, with smaller images and fewer draws."""
    folder = tmp_path_factory.mktemp("project") / "ditf"
    names = ("pipeline", "stages", "catalogs", "cache", "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore")
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=_generated)
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(source, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    made = Project(folder)
    made.set("ensemble_size: 8", "ensemble_size: 2")
    made.set("img_size: 256 ", "img_size: 160 ")
    made.set("img_size: 192 ", "img_size: 160 ")
    made.check("git", "init", "-q")
    made.check("git", "config", "user.name", "test")
    made.check("git", "config", "user.email", "test@example.invalid")
    made.check("git", "add", "-A")
    made.check("git", "commit", "-qm", "start")
    made.check("dvc", "repro")
    made.check("git", "add", "-A")
    made.check("git", "commit", "-qm", "run")
    return made


@pytest.fixture
def lab(project: Project, tmp_path: Path) -> Project:
    """The finished project without its features of the folder, to extract them again; other stages are not needed."""
    folder = tmp_path / "lab"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".dvc", ".git", "results", "staging"))
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)  # DVC's files are read-only
    shutil.copytree(project.folder / "results/folder", folder / "results/folder")
    return Project(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _generated(folder: str, names: list[str]) -> list[str]:
    """What DVC or Python made: not part of the project."""
    if Path(folder).name in ("cache", "catalogs"):
        return [name for name in names if not name.startswith(".git")]
    return [name for name in names if name == "__pycache__"]
