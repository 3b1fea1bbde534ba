"""Run a model once on every image of a data set -> cache/features/<features>, a Zarr store."""

import time
from typing import Any

from ditf.features.store import FeatureStore
from ditf.files import bytes_in
from ditf.project.extraction import extract_entry
from ditf.project.paths import FEATURES
from ditf.project.runs import recorded_run
from ditf.provenance import hardware
from stages import Params, record_run, run


def main(params: Params, name: str) -> None:
    """Extract the store of an entry of `features`, and print how many images the model computed."""
    start = time.monotonic()
    done = extract_entry(params, name)
    values = {"images": done.images, "computed": done.computed, "bytes": bytes_in(FEATURES / name)}
    record_run("features", name, start, **values, **_machine(params, name, done.computed))
    print(f"{done.computed} of {done.images} images went through the model")
    if done.peak_memory is not None:
        print(f"peak GPU memory: {done.peak_memory / 2**30:.1f} GiB")


def _machine(params: Params, name: str, computed: int) -> dict[str, Any]:
    """Return the store's digest and the machine that extracted it, or nothing if the machine is not known.

    A store that was only copied keeps the machine that was recorded for it.
    """
    store = FeatureStore(FEATURES / name).digest
    if computed == 0:
        earlier = recorded_run("features", name)
        return {key: earlier[key] for key in ("store", "hardware")} if earlier.get("store") == store else {}
    if isinstance(params.workers, str) and params.workers != "none":  # a scheduler's workers run elsewhere
        return {}
    return {"store": store, "hardware": hardware().model_dump()}


if __name__ == "__main__":
    run(main, "features")
