"""Faults injected for real: kills, a full disk, Ctrl-C, pickles; and workers that die."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline.engine import engine
from pipeline.errors import UserError
from pipeline.params import load_params

from tests.conftest import FEATURES, ROOT, Project, contents

KILLS = 20
SPAIR = "cache/features/spair"


def extract(lab: Project, dataset: str = "folder", **more: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "stages.features", dataset]
    return subprocess.Popen(
        command,
        cwd=lab.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,  # type: ignore[call-overload]
    )


WRITER = """
import sys, time
from tests import test_store as t
t.pipeline.writer.SHARD_BYTES = 3 * 12 * 5 * 2
writer = t.StoreWriter(t.Path(sys.argv[1]), t.ITEMS, t.BLOCKS, {"seed": 1})
print("ready", flush=True)
for index in writer.missing():
    time.sleep(0.004)
    writer.write(index, t.features(index))
    print(index, flush=True)
writer.finish()
print("finished", flush=True)
"""


def test_twenty_kills_lose_nothing_and_compute_nothing_twice(tmp_path: Path) -> None:
    def run(folder: Path, kill_after: float | None) -> list[str]:
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            if kill_after is not None:
                time.sleep(kill_after)
                process.kill()
            return process.stdout.read().split()

    assert run(tmp_path / "whole", None)[-1] == "finished"
    whole, moments, kills = contents(tmp_path / "whole/store.zarr"), random.Random(0), 0
    while kills < KILLS:
        folder, written = tmp_path / f"killed{kills}", list[str]()
        while not (written and written[-1] == "finished"):
            kills += 1
            written += run(folder, moments.uniform(0, 0.05) if kills <= 2 * KILLS else None)
        indices = [w for w in written if w != "finished"]
        assert len(indices) == len(set(indices)), "a finished item was computed again"
        assert contents(folder / "store.zarr") == whole


def extract_here(folder: Path) -> None:
    os.chdir(folder)
    with Path("error.txt").open("w") as file:
        os.dup2(file.fileno(), 2)
    from stages.features import main

    main(load_params(), "folder")


def test_twenty_kills_of_an_extraction_lose_nothing(lab: Project) -> None:
    whole, moments, kills = contents(lab.folder / FEATURES), random.Random(1), 0
    forks = multiprocessing.get_context("forkserver")  # torch is imported once for all
    forks.set_forkserver_preload(["stages.features", "tests.test_faults"])

    def run(seconds: float | None) -> bool:
        """Extract, for so long; whether it came to its end."""
        process = forks.Process(target=extract_here, args=(lab.folder,))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (lab.folder / "error.txt").read_text()
        return process.exitcode == 0

    def loose() -> dict[str, tuple[int, int]]:
        found = [p for p in staging.glob("*/*/loose/*") if p.name.isdecimal()]
        return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}

    staging = lab.folder / "cache/staging/features/folder"
    assert run(None)  # the first imports torch
    start, seconds = time.monotonic(), 0.0
    while kills < KILLS:
        shutil.rmtree(lab.folder / FEATURES)
        shutil.rmtree(staging, ignore_errors=True)
        finished: dict[str, tuple[int, int]] = {}
        while not run(moments.uniform(0, seconds) if seconds else None):
            kills += 1
            now = loose()
            assert all(now.get(name, file) == file for name, file in finished.items()), "computed again"
            finished |= now
        seconds = seconds or time.monotonic() - start
        assert contents(lab.folder / FEATURES) == whole


def test_ctrl_c_leaves_a_resumable_state_and_no_processes(lab: Project) -> None:
    lab.set("engine: none", "engine: 2")
    whole = contents(lab.folder / SPAIR)
    shutil.rmtree(lab.folder / SPAIR)
    process = extract(lab, "spair")
    loose = lab.folder / "cache/staging/features/spair"
    while process.poll() is None and not list(loose.glob("*/*/loose/[0-9]*")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted; run again to go on from here" in error
    assert "Traceback" not in error
    time.sleep(1)
    left = subprocess.run(["ps", "-wweo", "pgid,args"], capture_output=True, text=True).stdout
    assert not [line for line in left.splitlines() if line.split()[0] == str(process.pid) and "<defunct>" not in line]
    lab.check("python", "-m", "stages.features", "spair")
    assert contents(lab.folder / SPAIR) == whole


def test_workers_give_the_same_bytes(lab: Project) -> None:
    whole = contents(lab.folder / FEATURES)
    shutil.rmtree(lab.folder / FEATURES)
    lab.set("engine: none", "engine: 2")
    done = lab.run("python", "-m", "stages.features", "folder")
    assert done.returncode == 0, done.stderr
    assert "dashboard: http://127.0.0.1" in done.stderr
    assert contents(lab.folder / FEATURES) == whole
    catalog = contents(lab.folder / "catalogs/folder")
    lab.check("python", "-m", "stages.catalog", "folder")
    assert contents(lab.folder / "catalogs/folder") == catalog


def test_a_worker_killed_in_extraction_is_replaced(lab: Project) -> None:
    whole = contents(lab.folder / SPAIR)
    shutil.rmtree(lab.folder / SPAIR)
    lab.set("engine: none", "engine: 2")
    process = extract(lab, "spair")
    loose = lab.folder / "cache/staging/features/spair"
    while process.poll() is None and not list(loose.glob("*/*/loose/[0-9]*")):
        time.sleep(0.02)
    listing = subprocess.run(["ps", "-wweo", "pid,pgid,args"], capture_output=True, text=True).stdout
    workers = [
        int(line.split()[0])
        for line in listing.splitlines()
        if line.split()[1] == str(process.pid) and "spawn_main" in line
    ]
    assert workers, (process.poll(), process.communicate(), listing[-3000:])
    os.kill(workers[0], signal.SIGKILL)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    assert contents(lab.folder / SPAIR) == whole


def fail(name: str) -> str:
    if name == "bad":
        raise ValueError("no good")
    return name


def die(name: str) -> str:
    if name == "bad":
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def mistake(name: str) -> str:
    raise UserError(f"{name}: mended by the user")


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (fail, "bad: failed 3 times .*no good"),
        (die, "bad: 3 times the worker that had it died"),
        (mistake, "good: mended by the user"),
    ],
)
def test_an_item_that_fails_three_times_is_named(work: Callable[[str], str], expected: str) -> None:
    with engine(1) as workers, pytest.raises(UserError, match=expected):
        list(workers.map(work, [(name, (name,)) for name in ("good", "bad")]))


def linger(name: str) -> str:
    if name == "good":
        time.sleep(0.5)
    return die(name)


def test_an_item_is_not_blamed_for_its_neighbour() -> None:
    from distributed import LocalCluster

    options: dict[str, Any] = {"threads_per_worker": 2, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=1, **options) as cluster, engine(cluster.scheduler_address) as workers:
        results = workers.map(linger, [(name, (name,)) for name in ("good", "bad")])
        assert next(results) == "good"
        with pytest.raises(UserError, match="bad: 3 times"):
            next(results)


def test_a_running_scheduler_is_used() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tcp://127.0.0.1")
        with engine(address) as workers:
            names = [str(number) for number in range(100)]
            assert list(workers.map(fail, [(name, (name,)) for name in names])) == names


def test_no_scheduler_is_one_line() -> None:
    with pytest.raises(UserError, match="no scheduler with workers answers"), engine("tcp://127.0.0.1:1"):
        pass


def test_a_full_disk_is_one_line_and_the_run_goes_on(lab: Project) -> None:
    whole = contents(lab.folder / FEATURES)
    shutil.rmtree(lab.folder / FEATURES)

    def limit() -> None:  # a write past it fails, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    process = extract(lab, preexec_fn=limit)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "make space and run again" in error
    assert "Traceback" not in error
    assert not (lab.folder / FEATURES).exists()
    lab.check("python", "-m", "stages.features", "folder")
    assert contents(lab.folder / FEATURES) == whole


def test_a_planted_pickle_is_never_loaded(lab: Project) -> None:
    trap = lab.folder / "opened"
    code = f"cos\nsystem\n(S'touch {trap}'\ntR."
    model = lab.folder / "cache/tiny-flux"
    for place in ("transformer/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "model.pkl"):
        (model / place).write_text(code)
    (lab.folder / "cache/tiny-flux/vae/diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(lab.folder / FEATURES)
    done = lab.run("python", "-m", "stages.features", "folder")
    assert done.returncode == 2
    assert "safetensors" in done.stderr
    assert not trap.exists()


def test_nothing_trusts_remote_code_or_unpickles() -> None:
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py")]:
        text = path.read_text()
        for word in ("trust_remote_code=True", "pickle.load", " torch.load", "allow_pickle=True"):
            assert word not in text, path


def test_figures_are_never_nan(project: Project) -> None:
    for path in (project.folder / "results").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
