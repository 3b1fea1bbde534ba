"""The massive channels of a data set's features -> results/<dataset>/channels/: a table, a plot, the choice."""

import csv
import json

import numpy as np
from tqdm import tqdm

from pipeline.descriptors import channel_statistics
from pipeline.errors import UserError
from pipeline.pictures import draw_channels
from pipeline.store import FeatureStore
from stages import CACHE, RESULTS, Params, run


def main(params: Params, dataset: str) -> None:
    section, store = params.dataset(dataset), FeatureStore(CACHE / "features" / dataset)
    items = tqdm(store.ids, "channels", unit="image", delay=2)
    statistics = channel_statistics(store.features(section.block, item).tokens for item in items)
    count = len(statistics.magnitude)
    chosen = statistics.massive if section.channels == "auto" else section.channels
    if any(channel >= count for channel in chosen):
        raise UserError(f"params.yaml: {dataset}.channels: {chosen}, but features have channels 0..{count - 1}")

    folder = RESULTS / dataset / "channels"
    folder.mkdir(parents=True, exist_ok=True)
    choice = {"discarded": list(chosen), "massive": statistics.massive}
    (folder / "channels.json").write_text(json.dumps(choice) + "\n", encoding="utf-8")
    with (folder / "channels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["channel", "magnitude", "mean", "std", "ratio", "massive"])
        for c in np.argsort(-statistics.magnitude):
            figures = (getattr(statistics, name)[c] for name in ("magnitude", "mean", "std", "ratio"))
            table.writerow([int(c), *(f"{x:.6g}" for x in figures), int(c in statistics.massive)])
    draw_channels(folder / "channels.png", statistics)
    print(f"massive channels: {statistics.massive}; discarded: {list(chosen)}")


if __name__ == "__main__":
    run(main)
