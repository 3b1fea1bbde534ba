"""Extraction on an idle and on a busy machine, with this package's spin count and with OpenMP's default."""

import argparse
import os
import statistics
import subprocess
import sys
import time

VARIABLE = "GOMP_SPINCOUNT"
OPENMP_DEFAULT = "30000000000"  # libgomp spins for this many rounds when OMP_WAIT_POLICY is not set


def measure(images: int) -> None:
    """Print the median and the longest time per image, in seconds."""
    import numpy as np

    import ditf

    extractor = ditf.Extractor.from_pretrained("tiny-0", block=28, img_size=256)
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    extractor(image)
    seconds = []
    for _ in range(images):
        start = time.perf_counter()
        extractor(image)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), max(seconds))


def measure_in_process(images: int, spin_count: str | None) -> tuple[float, float]:
    """Run `measure` in a new process and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key not in (VARIABLE, "OMP_WAIT_POLICY")}
    if spin_count is not None:
        environment[VARIABLE] = spin_count
    command = [sys.executable, "-m", "benchmarks.busy", "--measure", "--images", str(images)]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    median, longest = map(float, printed.split())
    return median, longest


def main() -> None:
    from benchmarks.report import machine, show

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.images)
        return
    rows = []
    for busy in (0, 2):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            ours = measure_in_process(options.images, None)
            default = measure_in_process(options.images, OPENMP_DEFAULT)
        finally:
            for process in others:
                process.kill()
        name = f"beside {busy} busy processes" if busy else "idle"
        rows.append((f"{name}: median (longest) seconds per image", f"{ours[0]:.2f} ({ours[1]:.2f})"))
        rows.append((f"{name}: with OpenMP's default", f"{default[0]:.2f} ({default[1]:.2f})"))
        rows.append((f"**{name}: ratio of the medians**", f"**{default[0] / ours[0]:.1f}**"))
    show(f"Extraction on a busy machine ({machine()})", rows)


if __name__ == "__main__":
    main()
