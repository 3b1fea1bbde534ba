"""A sweep's extraction, all blocks of a timestep in one pass, beside one extraction for each block and timestep.

Both go through `ditf.features.extract.extract` to stores on disk, with a random FLUX of 19 + 38 blocks and medium
width. The single extractions already stop at their block and load no deeper one.
"""

import argparse
import dataclasses
import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.extraction import make_model
from benchmarks.report import machine, show, timed
from benchmarks.workers import make_job, make_source
from ditf.backbones.families.flux import Flux
from ditf.features.extract import extract
from ditf.features.store import FeatureStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=4, help="of 64 channels")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--samples", type=int, default=2, help="of noise")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[100, 260])
    parser.add_argument("--blocks", type=int, nargs="+", default=list(range(57)))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    try:
        make_model(folder / "flux", options.heads)
        job = make_job(folder)
        sources = [make_source(folder, number) for number in range(options.images)]

        def extracted(timestep: int, blocks: list[int]) -> FeatureStore:
            backbone = Flux(timestep=timestep, blocks=blocks, ensemble_size=options.samples)
            out = folder / f"{timestep} {blocks}"
            return FeatureStore(extract(out, sources, dataclasses.replace(job, backbone=backbone)).path)

        def together() -> dict[int, FeatureStore]:
            return {timestep: extracted(timestep, options.blocks) for timestep in options.timesteps}

        def apart() -> dict[tuple[int, int], FeatureStore]:
            settings = list(itertools.product(options.timesteps, options.blocks))
            return {(t, block): extracted(t, [block]) for t, block in tqdm(settings, "apart")}

        extracted(0, [max(options.blocks)])  # the files of the model are in memory for both
        one, swept = timed(together)
        many, singles = timed(apart)
        difference = max(
            np.abs(a.astype(np.float32) - b.astype(np.float32)).max() / np.abs(b.astype(np.float32)).max()
            for (timestep, block), store in singles.items()
            for source in sources
            for a, b in [(swept[timestep].tokens(block, source.id), store.tokens(block, source.id))]
        )
        passes = options.images * options.samples * len(options.timesteps)
        show(
            f"Sweep ({machine()})",
            [
                ("width, blocks, timesteps", f"{64 * options.heads}, {len(options.blocks)}, {len(options.timesteps)}"),
                ("images, noise samples", f"{options.images}, {options.samples}"),
                ("forward passes; one by one", f"{passes}; {passes * len(options.blocks)}"),
                ("all blocks of a timestep in one pass", f"{one:.1f} s"),
                ("one extraction for each block and timestep", f"{many:.1f} s"),
                ("**ratio**", f"**{many / one:.1f}**"),
                ("greatest difference of features, relative", f"{difference:.1e}"),
            ],
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
