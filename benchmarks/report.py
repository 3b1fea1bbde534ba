"""What every benchmark prints: a table, and the machine that it ran on."""

import os
import platform
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def machine() -> str:
    """The processor's name, the cores that this process may use, and the operating system."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor()}, {cores} cores, Python {platform.python_version()}"


def load() -> str:
    """The processes that want a core, averaged over the last minute. Other work makes a benchmark slower."""
    return f"{os.getloadavg()[0]:.1f}"


def gpu_name() -> str:
    """The GPU's name, and the versions of torch and of its CUDA."""
    import torch

    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}"


def timed(work: Callable[[], T], repeat: int = 1) -> tuple[float, T]:
    """The least time of `repeat` calls in seconds, and the last result."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def peak_memory() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def show(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print a Markdown section."""
    print(f"### {title}\n\n| | |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |", flush=True)
    print(flush=True)
