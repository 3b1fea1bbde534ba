"""Two single-threaded workers beside one: extraction with a mid-sized FLUX, propagation of DAVIS-like sequences.

The time is of the work alone: workers are started, and each has done a little of the same. One and two take
turns, because the machine's speed drifts; the median of each counts.
"""

import functools
import itertools
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pipeline.backbones.text import TextEncoder
from pipeline.engine import Engine, engine
from pipeline.extraction import Job, Settings, Source, extract_on
from pipeline.masks import save_mask
from pipeline.model import pin
from pipeline.propagation import Settings as Propagation
from pipeline.store import Features, FeatureStore, Item
from pipeline.text import encode_prompts
from pipeline.writer import StoreWriter
from stages.propagate import carry
from tqdm import tqdm

from benchmarks.extraction import make_model
from benchmarks.propagation import video
from benchmarks.report import machine, show, timed

IMAGES, SEQUENCES, FRAMES, GRID, SIZE = 12, 4, 10, (30, 53), (848, 480)
TURNS = 5


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    try:
        make_model(folder / "flux", heads=8)
        job = _job(folder)
        sources = [_source(folder, number) for number in range(IMAGES + 2)]
        store = _videos(folder)
        seconds: dict[tuple[str, int], list[float]] = {}
        for turn, count in itertools.product(range(TURNS), (1, 2)):
            out = folder / f"turn {turn}, {count}"
            with engine(count, threads=1) as workers:
                _extract(workers, out / "warm", sources[IMAGES:], job)
                extraction = timed(functools.partial(_extract, workers, out / "cold", sources[:IMAGES], job))[0]
                _propagate(workers, folder, store, frames=2)
                propagation = timed(functools.partial(_propagate, workers, folder, store))[0]
            seconds.setdefault(("extraction", count), []).append(extraction)
            seconds.setdefault(("propagation", count), []).append(propagation)
        rows = []
        for name in ("extraction", "propagation"):
            one, two = (statistics.median(seconds[name, count]) for count in (1, 2))
            rows.append((name, f"{one:.1f} s with one worker, {two:.1f} s with two: **{one / two:.2f}**"))
        show(f"Workers ({machine()})", rows)
    finally:
        shutil.rmtree(folder)


def _job(folder: Path) -> Job:
    settings = Settings(260, (28,), 4, 3.5, "longer", 256, 0)
    model = pin(str(folder / "flux"), "main")
    encode_prompts(["x"], folder / "texts", lambda: TextEncoder(model.component, torch.float32, "cpu"))
    return Job(model, settings, "float16", torch.float32, "cpu", 4, folder / "texts")


def _source(folder: Path, number: int) -> Source:
    path = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return Source(str(number), path, str(number), 256, 192, "x")


def _extract(workers: Engine, folder: Path, sources: list[Source], job: Job) -> None:
    writer = StoreWriter(folder, [source.item(job.settings) for source in sources], job.settings.blocks, {})
    extract_on(workers, sources, job, writer)
    writer.finish()


def _videos(folder: Path) -> FeatureStore:
    items = [Item(f"{s}/{t}", f"{s} {t}", GRID) for s in range(SEQUENCES) for t in range(FRAMES)]
    writer = StoreWriter(folder / "videos", items, [24], {})
    for sequence in tqdm(range(SEQUENCES), "videos"):
        for t, frame in enumerate(video(FRAMES, *GRID, seed=sequence)):
            writer.write(sequence * FRAMES + t, {24: Features(frame, np.zeros((3, frame.shape[1])))})
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[100:300, 200:500] = 1
    save_mask(folder / "mask.png", mask)
    return FeatureStore(writer.finish())


def _propagate(workers: Engine, folder: Path, store: FeatureStore, frames: int = FRAMES) -> None:
    described, settings = (24, "original", ()), Propagation()
    tasks = []
    for s in range(SEQUENCES):
        names = [(f"{s}/{t}", f"{t:05d}") for t in range(frames)]
        mask, out = folder / "mask.png", folder / "masks" / str(s)
        tasks.append((str(s), (store, names, mask, 2017, SIZE, described, settings, "cpu", out)))
    assert sum(workers.map(carry, tasks)) == SEQUENCES * frames


if __name__ == "__main__":
    main()
