"""The statistics of each channel, from a store -> results/channels/<features>/: a table and a plot per block."""

import numpy as np

from ditf.commands.project import FEATURES, RESULTS
from ditf.draw import draw_channels
from ditf.features.store import FeatureStore
from ditf.tasks import write_csv
from stages import Params, run


def main(params: Params, name: str) -> None:
    store, folder = FeatureStore(FEATURES / name), RESULTS / "channels" / name
    for block in store.blocks:
        found = store.statistics(block)
        rows = [
            {
                "channel": int(channel),
                **{key: float(getattr(found, key)[channel]) for key in ("magnitude", "mean", "std", "ratio")},
                "massive": int(channel in found.massive),
            }
            for channel in np.argsort(-found.magnitude)
        ]
        write_csv(folder / f"block{block}.csv", rows)
        draw_channels(folder / f"block{block}.png", found)
        print(f"block {block}: massive channels {found.massive}")


if __name__ == "__main__":
    run(main, "features")
