"""Long work of the explorer. One process does it, a job at a time, so that the server always answers."""

import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from ditf.errors import NotFoundError, UserError

Work = Callable[..., Any]  # called in the worker with the arguments of the job and a function that reports progress
State = Literal["waiting", "running", "done", "failed", "cancelled"]
MOST_WAITING = 8
MOST_KEPT = 32  # finished jobs
IDLE = 300.0  # seconds without work after which the process ends, because torch takes much memory
DIED = "The worker process ended, for example because memory ran out. Free some memory and run it again."


class BusyError(UserError):
    """Too many jobs wait."""


@dataclass
class Job:
    """A piece of long work.

    Attributes:
        kind: What the job does, such as "upload".
        folder: Folder for the files of the job.
        work: Function that the worker calls. It can be imported, and its last argument reports the finished steps.
        arguments: Its other arguments.
        steps: Names of the steps in their order; empty if they are not known.
        finish: Function that turns what `work` returned into the result, in the process of the server.
        id: Name of the job, which cannot be guessed.
        state: What the job does at the moment.
        done: Number of finished steps.
        error: Why the job failed.
        result: Result of the job once it is done, as plain data.
    """

    kind: str
    folder: Path
    work: Work
    arguments: tuple[Any, ...]
    steps: tuple[str, ...] = ()
    finish: Callable[[Any], dict[str, Any]] = dict
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "waiting"
    done: int = 0
    error: str | None = None
    result: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Return the state of the job as plain data."""
        shown = {name: getattr(self, name) for name in ("id", "kind", "state", "done", "error", "result")}
        return shown | {"total": len(self.steps)}


class JobQueue:
    """A queue of jobs and the process that does them.

    Args:
        waiting: Largest number of jobs that wait.
        kept: Number of finished jobs whose results are kept. The oldest are removed first.
        idle: Seconds without work after which the process ends. The next job starts it again.
    """

    def __init__(self, waiting: int = MOST_WAITING, kept: int = MOST_KEPT, idle: float = IDLE) -> None:
        self._most_waiting, self._most_kept, self._idle = waiting, kept, idle
        self._files = tempfile.TemporaryDirectory(prefix="ditf-explore-")
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._changed = threading.Condition()

    def new_folder(self) -> Path:
        """Make a folder for the files of a job."""
        return Path(tempfile.mkdtemp(dir=self._files.name))

    def submit(self, job: Job) -> Job:
        """Add a job to the queue.

        Raises:
            BusyError: Too many jobs wait.
        """
        with self._changed:
            if self._closed or len(self._waiting) >= self._most_waiting:
                shutil.rmtree(job.folder, ignore_errors=True)
                raise BusyError(f"{len(self._waiting)} jobs wait already. Try again when one is finished.")
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._remove_old()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ditf-jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def job(self, id: str) -> Job:
        """Return a job. Raises `UserError` if there is no such job."""
        job = self._jobs.get(id)
        if job is None:
            raise NotFoundError(f"job {id:.40}: not found. Results of old jobs are removed; start it again.")
        return job

    def cancel(self, id: str) -> Job:
        """Stop a job that waits or runs. A finished job stays as it is."""
        job = self.job(id)
        with self._changed:
            if job.state == "waiting":
                self._waiting.remove(job)
                self._end(job, "cancelled")
            elif job.state == "running":
                self._end(job, "cancelled")
                self._stop_worker()
        return job

    def close(self) -> None:
        """Stop all jobs, and remove their files."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if job.state in ("waiting", "running"):
                    job.state = "cancelled"
            self._waiting.clear()
            self._stop_worker()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(5)
        self._files.cleanup()

    def _run(self) -> None:
        """Do one job after the other."""
        while True:
            with self._changed:
                idle = self._idle if self._worker else None
                if not self._changed.wait_for(lambda: self._closed or bool(self._waiting), idle):
                    self._stop_worker()
                    continue
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.state = "running"
                self._worker = worker = self._worker or _Worker()
            self._watch(worker, job)

    def _watch(self, worker: "_Worker", job: Job) -> None:
        """Send a job to the worker, and note its progress until it ends."""
        try:
            worker.send((job.work, job.arguments))
            while True:
                kind, value = worker.receive()
                if kind == "progress":
                    job.done = value
                    continue
                result = job.finish(value) if kind == "done" else None
                with self._changed:
                    if job.state == "running":
                        job.result = result
                        self._end(job, "done" if kind == "done" else "failed", None if kind == "done" else str(value))
                return
        except Exception as error:  # the worker was stopped or died, or the result cannot be read
            died = isinstance(error, (EOFError, OSError))
            with self._changed:
                if job.state == "running":
                    self._end(job, "failed", DIED if died else str(error))
                if self._worker is worker and died:
                    self._stop_worker()

    def _end(self, job: Job, state: State, error: str | None = None) -> None:
        """Note that a job ended. The files of a job without a result are removed."""
        job.state = state
        job.error = error and error.replace(f"{job.folder}{os.sep}", "")  # the user does not know the folder
        if state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)

    def _stop_worker(self) -> None:
        """Stop the worker. The next job starts a new one."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _remove_old(self) -> None:
        """Remove the oldest finished jobs."""
        finished = [job for job in self._jobs.values() if job.state not in ("waiting", "running")]
        for job in finished[: max(0, len(finished) - self._most_kept)]:
            del self._jobs[job.id]
            shutil.rmtree(job.folder, ignore_errors=True)


class _Worker:
    """A process that does jobs. It runs only while there is work, because it imports torch."""

    def __init__(self) -> None:
        # Ctrl-C in a terminal also reaches the process, which ignores it because it inherits this thread's mask. The
        # server stops the process. The resource tracker starts first, since its start would reset the mask.
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_work, args=(remote,), name="ditf-jobs", daemon=True)
        self._process.start()
        remote.close()  # so that the end of the process ends `receive`

    def send(self, message: Any) -> None:
        """Send a function and its arguments to the process."""
        self._connection.send(message)

    def receive(self) -> tuple[str, Any]:
        """Wait for the next message of the process. Raises `EOFError` if the process ended."""
        message: tuple[str, Any] = self._connection.recv()
        return message

    def stop(self) -> None:
        """Stop the process at once."""
        self._process.kill()
        self._process.join(5)


def _work(connection: Connection) -> None:
    """Do jobs until the server closes the connection. Runs in the worker."""
    os.environ["TQDM_DISABLE"] = "1"  # the server's terminal shows no progress bars of jobs
    # Locks that libraries create, such as zarr's, then leave nothing behind when this process is stopped.
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)
    while True:
        try:
            work, arguments = connection.recv()
        except EOFError:
            return
        try:
            result = ("done", work(*arguments, lambda done: connection.send(("progress", done))))
        except UserError as error:
            result = ("failed", str(error))
        except Exception as error:  # any other error must not end the worker; its traceback is printed
            traceback.print_exc(file=sys.stderr)
            result = ("failed", f"{type(error).__name__}: {error}. The server printed the details.")
        connection.send(result)
