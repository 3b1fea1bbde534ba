"""Where work runs: in this process, on a local cluster of workers, or on a Dask cluster that is already there.

Work is a function that the workers can import, called once an item. Workers share nothing but a file system.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pipeline.errors import UserError

R = TypeVar("R")

Spec = int | str  # a number of workers; "none", or the address of a scheduler

ATTEMPTS = 3  # of one item, by whichever workers
AHEAD = 16  # items handed out, times the workers, before the first is back
CLOSING = 15  # seconds that local workers have to end by themselves
DASK = {
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # an item is given to who is free: none waits behind another
    "distributed.worker.profile.enabled": False,  # this and the next took a twentieth of two cores
    "distributed.admin.tick.interval": "1s",
    "distributed.logging.distributed": "error",
}
# Of glibc in local workers: memory that is freed is kept, or each tensor's pages would be asked for anew.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
GPU_THREADS = 2  # a worker with a GPU: while one holds the model, the other reads and writes


class Engine:
    """Calls a function for many items. `client`: of a Dask cluster, or None for this process."""

    def __init__(self, client: Any = None) -> None:
        self.client = client

    def map(
        self, work: Callable[..., R], items: Iterable[tuple[str, tuple[Any, ...]]], threads: bool = False
    ) -> Iterator[R]:
        """The results of `work(*arguments)` for each (name, arguments), in order; in this process by several threads,
        where `threads` says that `work` gains by it.

        Raises:
            UserError: as `work` raised it; on a cluster, also where an item failed or lost its worker three
                times, with the item's name.
        """
        if self.client is None:
            if threads:
                with ThreadPoolExecutor() as pool:
                    yield from pool.map(lambda item: work(*item[1]), items)
            else:
                yield from (work(*arguments) for _, arguments in items)
            return
        from distributed import KilledWorker, wait

        most, running = AHEAD * max(1, len(self.client.nthreads())), deque[tuple[str, tuple[Any, ...], Any]]()

        def submit(name: str, arguments: tuple[Any, ...]) -> Any:
            key = (work.__name__, name, os.urandom(4).hex())  # the first part groups them, so that they are queued
            return self.client.submit(_attempt, work, arguments, pure=False, retries=ATTEMPTS - 1, key=key)

        def first() -> R:
            name, arguments, future = running.popleft()
            try:
                if isinstance(future.exception(), KilledWorker):
                    # A dead worker's whole queue is blamed; an item that runs alone is blamed only for its own faults.
                    wait([other for *_, other in running])
                    future = submit(name, arguments)
                result = future.result()
            except KilledWorker:
                raise UserError(
                    f"{name}: {ATTEMPTS} times the worker that had it died; what is finished is kept"
                ) from None
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise UserError(f"{name}: failed {ATTEMPTS} times ({reason:.300}); what is finished is kept") from None
            if isinstance(result, UserError):
                raise result
            found: R = result
            return found

        try:
            for name, arguments in items:
                running.append((name, arguments, submit(name, arguments)))
                if len(running) == most:
                    yield first()
            while running:
                yield first()
        finally:
            for *_, future in running:
                future.cancel()


HERE = Engine()


@contextmanager
def engine(spec: Spec, gpus: bool = False, threads: int | None = None) -> Iterator[Engine]:
    """The engine that the parameter `dask.engine` names.

    Args:
        spec: "none", a number of local workers, or the address of a scheduler such as tcp://10.0.0.1:8786.
        gpus: whether the work uses GPUs: then a local worker has one of its own.
        threads: of the arithmetic of a local worker; its share of the cores unless given.
    """
    if spec == "none":
        yield HERE
        return
    from dask import config
    from distributed import Client, LocalCluster

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    config.set(DASK)
    if isinstance(spec, str):
        try:
            client = Client(spec, timeout=20)
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError) as error:
            raise UserError(
                f"params.yaml: dask.engine: no scheduler with workers answers at {spec} ({error}); use a "
                "number of workers on this machine"
            ) from None
        with client:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            yield Engine(client)
        return
    share = str(threads or max(1, cores // spec))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    config.set({"distributed.nanny.pre-spawn-environ": {**dict.fromkeys(names, share), **KEEP_MEMORY}})
    options: dict[str, Any] = {
        "n_workers": spec,
        "threads_per_worker": GPU_THREADS if gpus else 1,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": 50,
    }
    if gpus:
        try:
            import dask_cuda
        except ImportError:
            raise UserError(
                "params.yaml: dask.engine: workers on GPUs need dask-cuda; install the extra `gpu`"
            ) from None
    else:
        options["memory_limit"] = 0
    make_cluster = dask_cuda.LocalCUDACluster if gpus else LocalCluster
    # Ctrl-C is for this process, which then stops its workers: they inherit that it is ignored.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cluster = make_cluster(**options)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    try:
        with Client(cluster) as client:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            yield Engine(client)
    finally:
        with suppress(TimeoutError):  # a worker that died while it started is waited for without end
            cluster.close(timeout=CLOSING)


def _attempt(work: Callable[..., R], arguments: tuple[Any, ...]) -> R | UserError:
    """Call `work` in a worker. A user's mistake is returned, not raised: it is not tried again."""
    try:
        return work(*arguments)
    except UserError as error:
        return error
