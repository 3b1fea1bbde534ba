"""The first mask of every sequence carried through its frames -> results/davis/masks/<descriptor>/<sequence>/."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.catalog import read_table
from pipeline.datasets.davis import by_sequence, read_mask
from pipeline.descriptors import Descriptor
from pipeline.device import choose
from pipeline.engine import engine
from pipeline.masks import save_mask
from pipeline.propagation import Settings, first_labels, hard_mask, propagate
from pipeline.store import FeatureStore
from stages import CACHE, CATALOGS, RESULTS, Params, discarded, run

# The released protocol gives this sequence, whose camera cuts, less context.
MOST_LAST_FRAMES = {"shooting": 10}


def main(params: Params) -> None:
    d, store = params.davis, FeatureStore(CACHE / "features" / "davis")
    root, device = Path(d.root).resolve(), choose(params.model.device, "auto")[0]
    sequences = by_sequence(read_table(CATALOGS / "davis", "frames"))
    sizes = {row["sequence"]: (row["width"], row["height"]) for row in read_table(CATALOGS / "davis", "sequences")}
    masks = {row["id"]: row["path"] for row in read_table(CATALOGS / "davis", "masks")}
    channels, home = discarded("davis"), (RESULTS / "davis" / "masks").resolve()
    shutil.rmtree(home, ignore_errors=True)

    def tasks() -> Iterator[tuple[str, tuple[Any, ...]]]:
        for descriptor in d.descriptors:
            for sequence, frames in sequences.items():
                settings = Settings(
                    topk=d.topk,
                    temperature=d.temperature,
                    n_last_frames=min(d.n_last_frames, MOST_LAST_FRAMES.get(sequence, d.n_last_frames)),
                    size_mask_neighborhood=d.size_mask_neighborhood,
                )
                names, first = [(f["id"], f["name"]) for f in frames], root / masks[frames[0]["id"]]
                folder, described = home / descriptor / sequence, (d.block, descriptor, channels)
                yield sequence, (store, names, first, d.year, sizes[sequence], described, settings, device, folder)

    total = len(d.descriptors) * sum(len(frames) for frames in sequences.values())
    with (
        engine(params.dask.engine, gpus=device == "cuda") as workers,
        tqdm(desc="propagation", total=total, unit="frame", delay=2) as bar,
    ):
        for count in workers.map(carry, tasks()):
            bar.update(count)


def carry(
    store: FeatureStore,
    names: list[tuple[str, str]],
    first: Path,
    year: int,
    size: tuple[int, int],
    described: tuple[int, Descriptor, list[int]],
    settings: Settings,
    device: str,
    folder: Path,
) -> int:
    """Carry the mask `first` through the frames `names` (id, file name) into `folder`; returns their number."""
    block, descriptor, channels = described
    folder.mkdir(parents=True, exist_ok=True)
    mask = read_mask(first, year)
    save_mask(folder / f"{names[0][1]}.png", mask)
    maps = (store.descriptors(block, item, descriptor, channels) for item, _ in names)
    labels = first_labels(mask, store.grid(names[0][0]))
    for (_, name), soft in zip(names[1:], propagate(maps, labels, settings, device), strict=True):
        save_mask(folder / f"{name}.png", hard_mask(soft, size))
    return len(names)


if __name__ == "__main__":
    run(main)
