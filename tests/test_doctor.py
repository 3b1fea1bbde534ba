"""`ditf doctor`: faults of a set-up that are found before a run."""

import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.numpy
from typer.testing import CliRunner

from ditf.backbones.source import local_folder
from ditf.cli.app import app
from ditf.project.doctor import diagnose
from tests.conftest import ROOT, Project, inside

SHARDS = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
MEMORY = Path("/dev/shm")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A new project. The requirements of the package are those in pyproject.toml, whatever was installed."""
    folder = tmp_path / "project"
    result = CliRunner().invoke(app, ["init", str(folder), "--no-git"], catch_exceptions=False)
    assert result.exit_code == 0
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    distribution(folder, "ditf", "0.2.0", *(f"Requires-Dist: {each}" for each in requirements))
    return Project(folder)


def distribution(folder: Path, name: str, version: str, *lines: str) -> None:
    """Let a library be installed in a folder, as far as its metadata is concerned."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    (info / "METADATA").write_text(text + "\n")


def problems(project: Project, status: int) -> list[str]:
    """Run `ditf doctor`, and return the lines of warnings and errors."""
    done = project.ditf("doctor")
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("error: ", "warning: "))]


def test_a_good_project_has_no_problem(fresh: Project) -> None:
    assert problems(fresh, 0) == []
    output = fresh.check("ditf", "doctor")
    assert "libraries fit" in output
    assert output.splitlines()[-1] == "0 errors and 0 warnings"


def test_an_old_and_a_missing_library(fresh: Project) -> None:
    distribution(fresh.folder, "zarr", "2.18.0")
    metadata = next(fresh.folder.glob("ditf-*")) / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: not-a-library>=1\n")
    assert problems(fresh, 1) == [
        "error:   zarr 2.18.0: ditf requires >=3.1. Run `pip install 'zarr>=3.1'`.",
        "error:   not-a-library: not installed. Run `pip install 'not-a-library>=1'`.",
    ]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with as many empty files as the official releases have."""
    root = tmp_path_factory.mktemp("release")
    pairs, images = root / "spair/PairAnnotation/test", root / "spair/JPEGImages/cat"
    pairs.mkdir(parents=True)
    images.mkdir(parents=True)
    for number in range(12_234):
        (pairs / f"{number}.json").touch()
    for number in range(1_800):
        (images / f"{number}.jpg").touch()
    names = [f"sequence-{number}" for number in range(30)]
    for number in range(1_999):
        folder = root / "davis/JPEGImages/480p" / names[number % 30]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number // 30:05d}.jpg").touch()
    lists = root / "davis/ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(names))
    return root


def test_data_sets_are_counted(fresh: Project, release: Path) -> None:
    for name in ("spair", "davis"):
        fresh.set(f"datasets.{name}.root", str(release / name))
    assert problems(fresh, 0) == []
    output = fresh.check("ditf", "doctor")
    assert "datasets.spair: 12,234 pairs, 1,800 images, as in the official release" in output
    assert "datasets.davis: 30 sequences, 1,999 frames, as in the official release" in output

    pair, sequence = release / "spair/PairAnnotation/test/7.json", release / "davis/JPEGImages/480p/sequence-3"
    pair.unlink()
    sequence.rename(release / "moved")
    first, second = problems(fresh, 1)
    assert f"datasets.spair: {release}/spair has 12,233 pairs, 1,800 images; the release has 12,234 pairs" in first
    assert "has 29 sequences, 1,932 frames; the release has 30 sequences, 1,999 frames. Unpack it again" in second
    pair.touch()
    (release / "moved").rename(sequence)

    fresh.set("datasets.spair.root", str(release / "nowhere"))
    assert problems(fresh, 1) == [
        f"error:   datasets.spair: {release}/nowhere is not a folder. Unpack the data there, or correct `root`."
    ]
    fresh.set("datasets.spair.root", str(release / "davis"))
    assert "has 0 pairs, 0 images; the release has" in problems(fresh, 1)[0]


def test_data_of_ones_own_is_no_fault(fresh: Project, tmp_path: Path) -> None:
    for name in ("PairAnnotation/test/1.json", "JPEGImages/cat/1.jpg"):
        (tmp_path / "own" / name).parent.mkdir(parents=True)
        (tmp_path / "own" / name).touch()
    fresh.set("datasets.spair.root", str(tmp_path / "own"))
    assert problems(fresh, 0) == []
    assert "1 pairs, 1 images, which is not the official release" in fresh.check("ditf", "doctor")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A tiny FLUX with its weights in two files."""
    folder = Path(shutil.copytree(local_folder("flux", "tiny-0"), tmp_path / "model"))
    part = folder / "transformer"
    tensors = safetensors.numpy.load_file(part / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    halves = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for file, chosen in halves.items():
        safetensors.numpy.save_file({name: tensors[name] for name in chosen}, part / file)
    (part / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, chosen in halves.items() for name in chosen}}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_weights_are_complete(fresh: Project, sharded: Path) -> None:
    fresh.set("models.miniature.source", str(sharded))
    first, second = (sharded / "transformer" / name for name in SHARDS)
    assert problems(fresh, 0) == []
    size = second.stat().st_size
    os.truncate(second, size - 100)
    assert problems(fresh, 1) == [
        f"error:   models.miniature: {second}: has {size - 100:,} of {size:,} bytes. Download it again."
    ]
    second.unlink()
    assert problems(fresh, 1) == [
        f"error:   models.miniature: {second}: not found, but the index of the weights lists it. Download it again."
    ]
    first.write_bytes(b"<html>")
    assert any(f"{first}: has 6 bytes, fewer than its header" in line for line in problems(fresh, 1))
    shutil.rmtree(sharded / "vae")
    assert any(f"{sharded}/vae: not found" in line for line in problems(fresh, 1))
    fresh.set("models.miniature.source", str(sharded / "nowhere"))
    assert any("is not a folder, a Hub id" in line for line in problems(fresh, 1))


def test_the_cache_of_the_hub(fresh: Project, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not downloaded yet is a warning. Nothing is downloaded, and torch is not imported."""
    fresh.set("models.miniature.source", "someone/model")
    cache, commit = tmp_path / "hub", "0" * 40
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))

    def run() -> tuple[int, list[str]]:
        done = fresh.run("ditf", "doctor", without=("torch",))
        return done.returncode, [line for line in done.stdout.splitlines() if "models.miniature" in line]

    status, (line,) = run()
    assert (status, line.startswith("warning: models.miniature: someone/model is not in the Hub's cache.")) == (0, True)
    repository = cache / "models--someone--model"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(sharded, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    assert run() == (0, ["ok:      models.miniature: the weights in the Hub's cache are complete"])
    second = snapshot / "transformer" / SHARDS[1]
    content = second.read_bytes()
    second.unlink()
    status, (line,) = run()
    assert (status, "1 files of its weights are not in the Hub's cache" in line) == (0, True)
    second.write_bytes(content[:-1])
    status, (line,) = run()
    assert (status, f"has {len(content) - 1:,} of {len(content):,} bytes" in line) == (1, True)


def test_disk_space_and_gpu_against_the_plan(tmp_path: Path, release: Path) -> None:
    folder = tmp_path / "paper"
    arguments = ["init", str(folder), "--no-git", "--preset", "ditf-spair", "--root", f"spair={release / 'spair'}"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    with inside(folder):
        low = {finding.text: finding.level for finding in diagnose(free=lambda _: 10**9)}
        high = {finding.text: finding.level for finding in diagnose(free=lambda _: 10**12)}
    (line,) = [text for text in low if text.startswith("disk: ")]
    assert low[line] == "error"
    assert "disk: 11.6 GB are needed for features, and 1.0 GB are free at" in line
    assert "encoding: int8" in line
    (line,) = [text for text in high if text.startswith("disk: ")]
    assert high[line] == "ok"
    (line,) = [text for text in high if text.startswith("features.spair-71k-flux: ")]
    assert high[line] == "warning"
    assert "46.2 PFLOP on a CPU" in line


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system is mounted")
    folder = MEMORY / f"ditf-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_the_cache_on_another_file_system(fresh: Project, other_file_system: Path) -> None:
    fresh.check("dvc", "cache", "dir", "--local", str(other_file_system))
    (line,) = problems(fresh, 0)
    assert line.startswith(f"warning: DVC's cache: {other_file_system}/files/md5 is on another file system")


def test_a_cache_that_cannot_be_written(fresh: Project, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fresh.check("dvc", "cache", "dir", "--local", str(tmp_path / "file"))
    (line,) = problems(fresh, 1)
    assert line.startswith(f"error:   DVC's cache: {tmp_path}/file: Not a directory.")


def test_a_broken_project_is_reported_in_lines(fresh: Project) -> None:
    (fresh.folder / ".dvc/config").write_text("[core\n")
    lines = problems(fresh, 1)
    assert any("DVC's cache: cannot be checked (ConfigError" in line for line in lines)
    fresh.set("features.photos-flux.blocks", [])
    assert any("params.yaml: features.photos-flux.blocks" in line for line in problems(fresh, 1))
    (fresh.folder / "params.yaml").write_text("models: [\n")
    assert any("params.yaml: line" in line for line in problems(fresh, 1))
