"""Where work runs: in this process, on local Dask workers, or on a Dask cluster that is already there.

Workers share nothing but a file system, and import the function that they are given.
"""

import multiprocessing.resource_tracker
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from ditf.errors import UserError

if TYPE_CHECKING:
    from distributed import Client

R = TypeVar("R")
Spec = int | str  # a number of local workers; "none", or the address of a scheduler

RETRIES = 2  # of a task, on whichever workers
IN_FLIGHT = 16  # tasks handed out per worker
ANSWERING = 10  # seconds that a scheduler has to answer
CLOSING = 15  # seconds that local workers have to end by themselves
DASK = {
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.scheduler.worker-saturation": 1.0,  # a task goes to a free worker: none waits behind another
    "distributed.worker.profile.enabled": False,  # this and the next took a twentieth of two cores
    "distributed.admin.tick.interval": "1s",
    "distributed.logging.distributed": "error",
}
# Of glibc in local workers: freed memory is kept, or each tensor's pages would be asked for anew.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
GPU_THREADS = 2  # of a worker with a GPU: while one holds the model, the other reads and writes


def run(
    client: "Client | None", work: Callable[..., R], tasks: Iterable[tuple[str, tuple[Any, ...]]], threads: int = 1
) -> Generator[tuple[str, R], None, None]:
    """Call `work(*arguments)` for each (name, arguments); gives (name, result), on a cluster as they finish.

    Args:
        client: of a cluster; None runs the tasks in this process, in order.
        work: a function that workers can import.
        tasks: consumed as workers become free. Names are distinct, and in the keys that the dashboard shows.
        threads: of this process, where there is no cluster.

    Raises:
        UserError: as `work` raised it, or naming the task that failed or lost its worker three times.
    """
    if client is None:
        yield from _in_threads(work, tasks, threads)
        return
    from distributed import KilledWorker, as_completed

    tasks, label = iter(tasks), f"{work.__name__}-{os.urandom(4).hex()}"  # one group, so that tasks are queued evenly
    names: dict[Any, str] = {}

    def submit(count: int) -> list[Any]:
        chunk = list(islice(tasks, count))
        if not chunk:
            return []
        columns = zip(*(arguments for _, arguments in chunk), strict=True)
        keys = [(label, name) for name, _ in chunk]
        futures: list[Any] = client.map(work, *columns, key=keys, retries=RETRIES, pure=False)
        names.update(zip((future.key for future in futures), (name for name, _ in chunk), strict=True))
        return futures

    running = as_completed(submit(IN_FLIGHT * max(1, len(client.nthreads()))))
    try:
        for future in running:
            name = names.pop(future.key)
            try:
                result = future.result()
            except UserError:
                raise
            except KilledWorker:
                raise UserError(f"{name}: its worker died {RETRIES + 1} times; what is finished is kept") from None
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UserError(f"{name}: failed {RETRIES + 1} times ({reason}); what is finished is kept") from None
            running.update(submit(1))
            yield name, result
    finally:
        client.cancel(list(running.futures))


def _in_threads(
    work: Callable[..., R], tasks: Iterable[tuple[str, tuple[Any, ...]]], threads: int
) -> Iterator[tuple[str, R]]:
    """Run tasks in this process, in order; of several threads, few tasks are begun ahead."""
    if threads == 1:
        yield from ((name, work(*arguments)) for name, arguments in tasks)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[str, Future[R]]] = deque()
        try:
            for name, arguments in tasks:
                running.append((name, pool.submit(work, *arguments)))
                if len(running) > 2 * threads:
                    first, future = running.popleft()
                    yield first, future.result()
            while running:
                first, future = running.popleft()
                yield first, future.result()
        finally:
            for _, future in running:
                future.cancel()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cluster(
    spec: Spec, gpus: bool = False, threads: int | None = None, imports: Sequence[str] = ()
) -> Iterator["Client | None"]:
    """The client of the workers that `spec` names, or None for this process.

    Args:
        spec: "none", a number of local workers, or the address of a scheduler such as tcp://10.0.0.1:8786.
            For tls:// the certificates are those of Dask's own configuration (`distributed.comm.tls`).
        gpus: whether the work uses GPUs: then each local worker has one of its own, and there are no more than these.
        threads: of the arithmetic of a local worker; its share of the cores unless given. Of a process's clusters, the
            first decides.
        imports: modules that take long to import; local workers without GPUs import them once, together.

    Raises:
        UserError: nothing answers at `spec`, or it cannot be used.
    """
    if spec == "none":
        yield None
        return
    from dask import config
    from distributed import Client, LocalCluster
    from distributed.security import Security
    from distributed.utils import get_mp_context

    config.set(DASK)
    if isinstance(spec, str):
        try:
            client = Client(spec, timeout=ANSWERING, security=Security() if spec.startswith("tls") else None)
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"workers: no scheduler with workers answers at {spec} ({error}); use a number of workers on this "
                "machine, or `none`"
            ) from None
        with client:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            yield client
        return
    if gpus:
        import torch

        spec = min(spec, torch.cuda.device_count())
    share = str(threads or max(1, cores() // spec))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    config.set({"distributed.nanny.pre-spawn-environ": {**dict.fromkeys(names, share), **KEEP_MEMORY}})
    options: dict[str, Any] = {"n_workers": spec, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    options |= {"threads_per_worker": GPU_THREADS if gpus else 1, "silence_logs": 50}
    if gpus:
        try:
            from dask_cuda import LocalCUDACluster as LocalCluster
        except ImportError:
            raise UserError("workers: workers on GPUs need dask-cuda; install the extra `gpu`") from None
    else:
        options["memory_limit"] = 0
    forked = sys.platform == "linux" and not gpus  # elsewhere, forks of processes with threads are not safe
    config.set({"distributed.worker.multiprocessing-method": "forkserver" if forked else "spawn"})
    if forked:
        get_mp_context().set_forkserver_preload(["distributed", *imports])  # in place of the modules that Dask chooses
    with _interrupts_held():
        workers = LocalCluster(**options)
    try:
        with Client(workers) as client:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            yield client
    finally:
        with suppress(TimeoutError):  # a worker that died while it started is waited for without end
            workers.close(timeout=CLOSING)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which is for this process; one that comes meanwhile is delivered afterwards.

    Blocked signals are inherited by processes and threads. Ignoring them here would do that, too, but lose the signal.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
