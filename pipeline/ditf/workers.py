"""Run work in this process, on local Dask workers, or on a running Dask cluster.

Workers share only a file system. They import the function that they run.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from ditf.errors import UserError

if TYPE_CHECKING:
    from distributed import Client

R = TypeVar("R")
Workers = int | str  # a number of local workers, the address of a scheduler, or "none"
Task = tuple[str, tuple[Any, ...]]  # a distinct name, and the arguments of the function

RETRIES = 2  # attempts after the first failure of a task
TASKS_PER_WORKER = 16  # tasks that the scheduler has at a time
SCHEDULER_TIMEOUT = 10.0  # seconds until a running scheduler must answer
START_TIMEOUT = 120.0  # seconds until workers must have started
CLOSE_TIMEOUT = 15.0  # seconds until local workers must have stopped
# Ctrl-C in a terminal also reaches workers. Only this process handles it, and then stops its workers.
IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
THREADS_PER_GPU_WORKER = 2  # while one thread runs the model, the other reads and writes


def run(
    client: "Client | None", work: Callable[..., R], tasks: Iterable[Task], threads: int = 1
) -> Generator[tuple[str, R], None, None]:
    """Call `work(*arguments)` for every task.

    Args:
        client: Client of a Dask cluster, or None to run the tasks in this process, in order.
        work: A function that workers can import.
        tasks: A name and the arguments of each call. Tasks are read only as workers become free, and the dashboard
            shows their names.
        threads: Number of threads without a cluster.

    Yields:
        The name and the result of each task. On a cluster, tasks come in the order in which they finish.

    Raises:
        UserError: `work` raised it, or a task failed or lost its worker three times. The error names the task.
    """
    if client is None:
        yield from _run_in_process(work, tasks, threads)
        return
    from distributed import KilledWorker, as_completed  # here, because the import is slow and only workers need it

    tasks = iter(tasks)
    group = f"{work.__name__}-{os.urandom(4).hex()}"  # the scheduler distributes a group of keys evenly
    names: dict[Any, str] = {}

    def submit(count: int) -> list[Any]:
        chunk = list(islice(tasks, count))
        if not chunk:
            return []
        columns = zip(*(arguments for _, arguments in chunk), strict=True)
        keys = [(group, name) for name, _ in chunk]
        futures: list[Any] = client.map(work, *columns, key=keys, retries=RETRIES, pure=False)
        names.update(zip((future.key for future in futures), (name for name, _ in chunk), strict=True))
        return futures

    running = as_completed(submit(TASKS_PER_WORKER * max(1, len(client.nthreads()))))
    try:
        for future in running:
            name = names.pop(future.key)
            try:
                result = future.result()
            except UserError:
                raise
            except KilledWorker:
                raise UserError(f"{name}: its worker died {RETRIES + 1} times; finished work is kept") from None
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UserError(f"{name}: failed {RETRIES + 1} times ({reason}); finished work is kept") from None
            running.update(submit(1))
            yield name, result
    finally:
        client.cancel(list(running.futures))


def _run_in_process(work: Callable[..., R], tasks: Iterable[Task], threads: int) -> Iterator[tuple[str, R]]:
    """Run tasks in this process. Results come in order, and only a few tasks start ahead."""
    if threads == 1:
        yield from ((name, work(*arguments)) for name, arguments in tasks)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[str, Future[R]]] = deque()
        try:
            for name, arguments in tasks:
                running.append((name, pool.submit(work, *arguments)))
                if len(running) > 2 * threads:
                    oldest, future = running.popleft()
                    yield oldest, future.result()
            while running:
                oldest, future = running.popleft()
                yield oldest, future.result()
        finally:
            for _, future in running:
                future.cancel()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cluster(workers: Workers, gpus: bool = False, threads: int | None = None) -> Iterator["Client | None"]:
    """Provide the client of a Dask cluster, or None to work in this process.

    Args:
        workers: "none", a number of local workers, or the address of a scheduler such as tcp://10.0.0.1:8786. For
            tls:// the certificates come from Dask's configuration (`distributed.comm.tls`).
        gpus: Whether the work uses GPUs. Each local worker then has its own GPU, so that GPUs limit their number.
        threads: Number of threads of a local worker's computations. By default, its share of the cores.

    Yields:
        The client, or None.

    Raises:
        UserError: No scheduler answers at the address, or local workers do not start.
    """
    if workers == "none":
        yield None
        return
    from dask import config

    config.set(
        {
            "distributed.scheduler.allowed-failures": RETRIES,
            "distributed.scheduler.worker-saturation": 1.0,  # no task waits for a busy worker while another is free
            "distributed.logging.distributed": "error",
        }
    )
    with _remote_client(workers) if isinstance(workers, str) else _local_client(workers, gpus, threads) as client:
        print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
        yield client


@contextmanager
def _remote_client(address: str) -> Iterator["Client"]:
    """Connect to a running scheduler."""
    from distributed import Client
    from distributed.security import Security

    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT, security=Security() if address.startswith("tls") else None)
        client.wait_for_workers(1, timeout=START_TIMEOUT)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"workers: no scheduler with workers answers at {address} ({error}). Use a number of workers on this "
            "machine, or `none`."
        ) from None
    with client:
        yield client


@contextmanager
def _local_client(count: int, gpus: bool, threads: int | None) -> Iterator["Client"]:
    """Start local workers, and stop them when the context ends."""
    from dask import config
    from distributed import Client, LocalCluster

    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    if gpus:
        import torch

        count = min(count, torch.cuda.device_count())
        options |= {"threads_per_worker": THREADS_PER_GPU_WORKER}
        try:
            from dask_cuda import LocalCUDACluster as LocalCluster
        except ImportError:
            raise UserError("workers: workers on GPUs need dask-cuda. Install the extra `gpu`.") from None
    else:
        options |= {"threads_per_worker": 1, "memory_limit": 0}
    share = str(threads or max(1, cores() // count))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    config.set({"distributed.nanny.pre-spawn-environ": dict.fromkeys(names, share)})
    workers = LocalCluster(n_workers=count if gpus else 0, preload=[IGNORE_CTRL_C], **options)
    try:
        with Client(workers) as client:
            if not gpus:
                workers.scale(count)  # only now, so that Ctrl-C during the start closes the cluster
            _wait_for_workers(client, count)
            yield client
    finally:
        with suppress(TimeoutError):  # a worker that died while it started never answers
            workers.close(timeout=CLOSE_TIMEOUT)


def _wait_for_workers(client: "Client", count: int) -> None:
    """Wait until all workers have started. Raises `UserError` after a time limit."""
    try:
        client.wait_for_workers(count, timeout=START_TIMEOUT)
    except TimeoutError:
        raise UserError(
            f"workers: {count} local workers did not start within {START_TIMEOUT:g} s. Use fewer, or `workers: none`."
        ) from None
