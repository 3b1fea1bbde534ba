"""Dask workers: the same bytes, replaced when they die, and what fails is named."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ditf.errors import UserError
from ditf.workers import cluster, run
from tests.conftest import Project, contents

DAVIS = "cache/features/davis-flux"


def heed_interrupts() -> None:
    """As in a terminal, even where the tests run in a shell's background, where a process begins by ignoring them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def extract(project: Project, name: str, **more: Any) -> "subprocess.Popen[str]":
    """Begin an extraction in a process group of its own, of as many threads as cores: bytes do not depend on these."""
    environment = {k: v for k, v in project.environment().items() if not k.endswith("_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.features", name],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **{"preexec_fn": heed_interrupts} | more,
    )


def forget(project: Project, name: str = "davis-flux") -> dict[str, bytes]:
    """Remove a store, and all from which it would be copied; returns what it was."""
    whole = contents(project.folder / f"cache/features/{name}")
    shutil.rmtree(project.folder / f"cache/features/{name}")
    shutil.rmtree(project.folder / ".dvc/cache")
    return whole


def chunks(project: Project) -> int:
    """How many files of tokens an extraction that is under way has written."""
    return len(list((project.folder / ".dvc/cache/ditf/features").glob("*/*/store.zarr/block*/tokens/c.*")))


def wait_for_a_chunk(project: Project, process: "subprocess.Popen[str]") -> None:
    before = chunks(project)
    while process.poll() is None and chunks(project) == before:
        time.sleep(0.02)


def group_of(process: "subprocess.Popen[str]") -> list[list[str]]:
    """The living processes of a process group: [pid, parent, group, command]."""
    listing = subprocess.run(["ps", "-wweo", "pid,ppid,pgid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 3) for line in listing.splitlines() if "<defunct>" not in line]
    return [row for row in rows if row[2] == str(process.pid)]


def interrupt(process: "subprocess.Popen[str]") -> str:
    """Press Ctrl-C: the last line says how to continue, and no process is left. Returns standard error."""
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130, error
    assert error.endswith("interrupted. Run the same command again to continue.\n")
    deadline = time.monotonic() + 60
    while group_of(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_of(process)
    return error


@pytest.mark.slow
def test_ctrl_c_while_workers_start_leaves_no_processes(project: Project) -> None:
    forget(project)
    project.set("workers", 2)
    process = extract(project, "davis-flux")
    while process.poll() is None and len(group_of(process)) < 2:
        time.sleep(0.02)
    interrupt(process)


@pytest.mark.slow
def test_after_ctrl_c_and_with_killed_workers_the_bytes_are_the_same(project: Project) -> None:
    whole = forget(project)
    project.set("workers", 2)
    process = extract(project, "davis-flux")
    wait_for_a_chunk(project, process)
    assert "Traceback" not in interrupt(process)
    process = extract(project, "davis-flux")
    wait_for_a_chunk(project, process)
    workers = [int(pid) for pid, _, _, command in group_of(process) if "spawn_main" in command]
    assert len(workers) == 2, (process.poll(), process.communicate())
    for worker in workers:  # all, so that none is left to do the work of the others
        os.kill(worker, signal.SIGKILL)
    error = process.communicate(timeout=180)[1]
    assert process.returncode == 0, error
    assert "dashboard: http://127.0.0.1" in error
    assert contents(project.folder / DAVIS) == whole


@pytest.mark.slow
def test_tasks_give_the_same_results_on_workers(project: Project) -> None:
    def results(name: str) -> dict[str, bytes]:
        return contents(project.folder / f"results/{name}")

    before = {name: results(name) for name in ("spair-flux", "davis-flux")}
    project.set("workers", 2)
    for name, files in before.items():
        project.check("python", "-m", "stages.predict", name)
        project.check("python", "-m", "stages.score", name)
        assert results(name) == files


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
        (die, "bad: its worker died 3 times"),
        (mistake, "good: mended by the user"),
    ],
)
def test_a_task_that_fails_three_times_is_named(work: Callable[[str], str], expected: str) -> None:
    with cluster(1) as client, pytest.raises(UserError, match=expected):
        list(run(client, work, [(name, (name,)) for name in ("good", "bad")]))


def test_in_this_process_tasks_run_in_order_and_stop_at_the_first_error() -> None:
    tasks = [(name, (name,)) for name in ("a", "b", "c")]
    for threads in (1, 2):
        assert list(run(None, fail, tasks, threads)) == [("a", "a"), ("b", "b"), ("c", "c")]
        with pytest.raises(ValueError, match="no good"):
            list(run(None, fail, [("bad", ("bad",)), *tasks], threads))


def test_a_running_scheduler_is_used_over_tcp_and_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dask import config
    from distributed import LocalCluster
    from distributed.security import Security

    names = [str(number) for number in range(100)]
    security = Security.temporary()
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**options) as running, cluster(running.scheduler_address) as client:
        assert sorted(name for name, _ in run(client, fail, [(n, (n,)) for n in names])) == sorted(names)
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        (tmp_path / name).write_text(getattr(security, name))
    keys = {"ca-file": "tls_ca_file", "client.cert": "tls_client_cert", "client.key": "tls_client_key"}
    tls = {f"distributed.comm.tls.{key}": str(tmp_path / name) for key, name in keys.items()}
    with LocalCluster(protocol="tls://", security=security, **options) as running:
        with config.set(tls), cluster(running.scheduler_address) as client:
            assert running.scheduler_address.startswith("tls://")
            assert dict(run(client, fail, [("a", ("a",))])) == {"a": "a"}
        with pytest.raises(UserError, match="workers: no scheduler with workers answers"):
            cluster(running.scheduler_address).__enter__()


def test_a_long_temporary_folder_does_not_stop_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    with cluster(1) as client:
        assert dict(run(client, fail, [("a", ("a",))])) == {"a": "a"}


def environment(name: str) -> str | None:
    return os.environ.get(name)


def test_workers_inherit_how_long_idle_threads_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "123")
    with cluster(1) as client:
        assert dict(run(client, environment, [("a", ("GOMP_SPINCOUNT",))])) == {"a": "123"}


def test_workers_that_do_not_start_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditf.workers.START_TIMEOUT", 0.1)
    with pytest.raises(UserError, match=r"workers: 1 local workers did not start within 0\.1 s"), cluster(1):
        pass


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditf.workers.SCHEDULER_TIMEOUT", 1)
    with pytest.raises(UserError, match="no scheduler with workers answers"), cluster("tcp://127.0.0.1:1"):
        pass
