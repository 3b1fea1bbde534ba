"""J and F at DAVIS's size, beside a reference that takes each object over the whole image."""

import argparse

import numpy as np
from numpy.typing import NDArray

from benchmarks import reference
from benchmarks.report import machine, show, timed
from ditf.metrics.segmentation import evaluate_frame


def masks(frames: int, objects: int, seed: int = 0) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Truth and prediction, 480x854: ellipses that move, and the same a little off."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:480, :854]
    centres, speeds = rng.uniform((100, 150), (380, 700), (objects, 2)), rng.uniform(-4, 4, (objects, 2))
    radii = rng.uniform(30, 90, (objects, 2))

    def draw(t: float, slip: float) -> NDArray[np.uint8]:
        mask = np.zeros((480, 854), np.uint8)
        for number, (centre, speed, radius) in enumerate(zip(centres, speeds, radii, strict=True), 1):
            at = centre + t * speed + slip
            mask[((y - at[0]) / radius[0]) ** 2 + ((x - at[1]) / radius[1]) ** 2 < 1] = number
        return mask

    return [(draw(t, 0), draw(t, 3)) for t in range(frames)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--objects", type=int, default=3)
    options = parser.parse_args()
    pairs = masks(options.frames, options.objects)
    fast, found = timed(lambda: [evaluate_frame(t, p, options.objects) for t, p in pairs], 3)
    slow, expected = timed(lambda: [reference.evaluate_frame(t, p, options.objects) for t, p in pairs])
    difference = np.abs(np.array(found) - np.array(expected)).max()
    show(
        f"J and F ({machine()})",
        [
            ("frames of 480x854, objects", f"{options.frames}, {options.objects}"),
            ("per frame", f"{1000 * fast / options.frames:.1f} ms"),
            ("the reference, per frame", f"{1000 * slow / options.frames:.1f} ms"),
            ("**ratio**", f"**{slow / fast:.1f}**"),
            ("greatest difference", f"{difference:.0e}"),
        ],
    )


if __name__ == "__main__":
    main()
