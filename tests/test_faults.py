"""Faults injected for real: kills, a full disk, planted pickles."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import BLOCK, ROOT, Project, contents
from tests.test_workers import forget

KILLS = 20
PHOTOS = "cache/features/photos-flux"
EXTRACT = ("python", "-m", "stages.features", "photos-flux")
FULL_DISK = """
import resource, runpy, signal, sys

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # a write past it fails, as on a full disk
sys.argv = ["features", "photos-flux"]
runpy.run_module("stages.features", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_twenty_kills_of_an_extraction_lose_nothing_and_compute_nothing_twice(project: Project) -> None:
    whole, moments, kills = forget(project, "photos-flux"), random.Random(1), 0
    staging = project.folder / ".dvc/cache/ditf/features/photos-flux"

    def run(seconds: float | None) -> bool:
        """Extract, for so long; whether it came to its end."""
        environment = project.environment()
        process = subprocess.Popen(EXTRACT, cwd=project.folder, env=environment, stderr=subprocess.PIPE, text=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        error = process.communicate()[1]  # what was killed has ended where nothing holds the pipe
        assert process.returncode in (0, -signal.SIGKILL), error
        return process.returncode == 0

    def chunks() -> dict[str, tuple[int, int]]:
        found = [path for path in staging.glob(f"*/store.zarr/block{BLOCK}/tokens/c.*") if path.suffix != ".partial"]
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    start, seconds = time.monotonic(), 0.0
    while kills < KILLS:
        for folder in (project.folder / PHOTOS, staging):
            shutil.rmtree(folder, ignore_errors=True)
        finished: dict[str, tuple[int, int]] = {}
        while not run(moments.uniform(0, seconds) if seconds else None):
            kills += 1
            now = chunks()
            assert all(now.get(name, file) == file for name, file in finished.items()), "computed again"
            assert finished.keys() <= now.keys() or not now, "lost"
            finished |= now
        seconds = seconds or time.monotonic() - start
        assert contents(project.folder / PHOTOS) == whole


def test_a_full_disk_is_one_line_and_the_run_goes_on(project: Project) -> None:
    whole = forget(project, "photos-flux")
    error = project.fail("python", "-c", FULL_DISK)
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "/store.zarr: File too large." in line
    assert not (project.folder / PHOTOS).exists()
    project.stages("features@photos-flux")
    assert contents(project.folder / PHOTOS) == whole


def test_a_planted_pickle_is_never_loaded(project: Project, tiny_flux: Path) -> None:
    trap = project.folder / "opened"
    code = f"cos\nsystem\n(S'touch {trap}'\ntR."
    model = project.folder / "weights"
    shutil.copytree(tiny_flux, model)
    for place in ("transformer/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "model.pkl"):
        (model / place).write_text(code)
    (model / "vae/diffusion_pytorch_model.safetensors").unlink()
    project.set("models.miniature.source", "weights")
    project.set("features.photos-flux.timestep", 100)
    project.check("python", "-m", "stages.entries")
    assert "safetensors" in project.fail("python", "-m", "stages.features", "photos-flux")
    assert not trap.exists()


@pytest.mark.parametrize("word", ["trust_remote_code=True", "pickle.load", " torch.load", "allow_pickle=True"])
def test_nothing_trusts_remote_code_or_unpickles(word: str) -> None:
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py")]:
        assert word not in path.read_text(), path
