"""Run a model once on every image of a data set -> cache/features/<features>, a Zarr store."""

import time

from ditf.files import bytes_in
from ditf.project.extraction import extract_entry
from ditf.project.paths import FEATURES
from stages import Params, record_run, run


def main(params: Params, name: str) -> None:
    """Extract the store of an entry of `features`, and print how many images the model computed."""
    start = time.monotonic()
    done = extract_entry(params, name)
    record_run("features", name, start, images=done.images, computed=done.computed, bytes=bytes_in(FEATURES / name))
    print(f"{done.computed} of {done.images} images went through the model")
    if done.peak_memory is not None:
        print(f"peak GPU memory: {done.peak_memory / 2**30:.1f} GiB")


if __name__ == "__main__":
    run(main, "features")
