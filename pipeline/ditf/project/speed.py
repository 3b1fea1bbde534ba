"""How fast this machine multiplies matrices, measured once and kept in the user's cache folder."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ditf.errors import UserError
from ditf.files import write_atomically

SECONDS = 0.3  # of a measurement
ROWS = 1024  # rows of the product, about the tokens of an image
MLP_RATIO = 4  # width of a block's hidden layer, in multiples of its channels


def measured_tflops(channels: int, on_gpu: bool) -> float:
    """Return the speed of matrix products on this machine, in TFLOP/s.

    Products of few channels are slower, so that the speed depends on the width of the model. A measurement takes less
    than two seconds. It is kept for each machine and width.

    Args:
        channels: Channels of a token.
        on_gpu: Measure the GPU in bfloat16 instead of the CPU in float32.
    """
    width = 2 ** round(np.log2(channels))
    path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ditf" / "speed.json"
    key = f"{platform.node()} {platform.machine()} {os.cpu_count()} {'gpu' if on_gpu else 'cpu'} {width}"
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
        return float(known[key])
    except (OSError, ValueError, TypeError):
        known = {}
    except KeyError:
        pass
    known[key] = _gpu_tflops(width) if on_gpu else _cpu_tflops(width)
    with contextlib.suppress(OSError, UserError):  # without the file, the next call measures again
        write_atomically(path, json.dumps(known, indent=1).encode() + b"\n")
    return known[key]


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, without importing torch, which takes long."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def _cpu_tflops(width: int) -> float:
    rng = np.random.default_rng(0)
    left = rng.standard_normal((ROWS, width), np.float32)
    right = rng.standard_normal((width, MLP_RATIO * width), np.float32)
    return 2 * left.size * right.shape[1] / _shortest(lambda: left @ right) / 1e12


def _gpu_tflops(width: int) -> float:
    import torch  # takes seconds to import, and only a machine with a GPU needs it here

    left = torch.randn(8 * ROWS, width, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(width, MLP_RATIO * width, device="cuda", dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(10):
            left @ right
        torch.cuda.synchronize()

    return 10 * 2 * left.numel() * right.shape[1] / _shortest(multiply) / 1e12


def _shortest(work: Callable[[], object]) -> float:
    """Return the shortest of several run times in seconds, so that other programs hardly affect the result."""
    work()  # the first run starts threads and allocates memory
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
