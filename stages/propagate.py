"""The first mask of every sequence carried through its frames -> results/davis/masks/<descriptor>/<sequence>/."""

import shutil
from pathlib import Path

from tqdm import tqdm

from pipeline.catalog import read_table
from pipeline.datasets.davis import by_sequence, read_mask
from pipeline.device import choose
from pipeline.masks import save_mask
from pipeline.propagation import Settings, first_labels, hard_mask, propagate
from pipeline.store import FeatureStore
from stages import CACHE, CATALOGS, RESULTS, Params, discarded, run

# The released protocol gives this sequence, whose camera cuts, less context.
MOST_LAST_FRAMES = {"shooting": 10}


def main(params: Params) -> None:
    d, store = params.davis, FeatureStore(CACHE / "features" / "davis")
    root, device = Path(d.root), choose(params.model.device, "auto")[0]
    sequences = by_sequence(read_table(CATALOGS / "davis", "frames"))
    sizes = {row["sequence"]: (row["width"], row["height"]) for row in read_table(CATALOGS / "davis", "sequences")}
    masks = {row["id"]: row["path"] for row in read_table(CATALOGS / "davis", "masks")}
    channels, home = discarded("davis"), RESULTS / "davis" / "masks"
    shutil.rmtree(home, ignore_errors=True)

    total = len(d.descriptors) * sum(len(frames) for frames in sequences.values())
    with tqdm(desc="propagation", total=total, unit="frame", delay=2) as bar:
        for descriptor in d.descriptors:
            for sequence, frames in sequences.items():
                folder = home / descriptor / sequence
                folder.mkdir(parents=True)
                first = read_mask(root / masks[frames[0]["id"]], d.year)
                save_mask(folder / f"{frames[0]['name']}.png", first)
                bar.update()
                settings = Settings(
                    topk=d.topk,
                    temperature=d.temperature,
                    n_last_frames=min(d.n_last_frames, MOST_LAST_FRAMES.get(sequence, d.n_last_frames)),
                    size_mask_neighborhood=d.size_mask_neighborhood,
                )
                maps = (store.descriptors(d.block, f["id"], descriptor, channels) for f in frames)
                labels = first_labels(first, store.grid(frames[0]["id"]))
                for frame, soft in zip(frames[1:], propagate(maps, labels, settings, device), strict=True):
                    save_mask(folder / f"{frame['name']}.png", hard_mask(soft, sizes[sequence]))
                    bar.update()


if __name__ == "__main__":
    run(main)
