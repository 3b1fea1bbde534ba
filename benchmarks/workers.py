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
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.extraction import make_model
from benchmarks.propagation import video
from benchmarks.report import machine, show, timed
from ditf.backbones.families.flux import Flux
from ditf.backbones.source import pin
from ditf.data.masks import encode_mask
from ditf.features.extract import extract
from ditf.features.job import ExtractionJob, ImageSource
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.features.text import encode_prompts
from ditf.files import Hashes
from ditf.propagation.voting import PropagationConfig
from ditf.tasks.propagation import SequenceJob, propagate_sequence
from ditf.workers import cluster, run

IMAGES, SEQUENCES, FRAMES, GRID, SIZE = 12, 4, 10, (30, 53), (848, 480)
TURNS = 5


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ditf-"))
    try:
        make_model(folder / "flux", heads=8)
        job = make_job(folder)
        sources = [make_source(folder, number) for number in range(IMAGES + 2)]
        store = _videos(folder)
        seconds: dict[tuple[str, int], list[float]] = {}
        for turn, count in itertools.product(range(TURNS), (1, 2)):
            out = folder / f"turn {turn}, {count}"
            with cluster(count, threads=1) as client:
                _extract(client, out / "warm", sources[IMAGES:], job)
                extraction = timed(functools.partial(_extract, client, out / "cold", sources[:IMAGES], job))[0]
                _propagate(client, folder, store, frames=2)
                propagation = timed(functools.partial(_propagate, client, folder, store))[0]
            seconds.setdefault(("extraction", count), []).append(extraction)
            seconds.setdefault(("propagation", count), []).append(propagation)
        rows = []
        for name in ("extraction", "propagation"):
            one, two = (statistics.median(seconds[name, count]) for count in (1, 2))
            rows.append((name, f"{one:.1f} s with one worker, {two:.1f} s with two: **{one / two:.2f}**"))
        show(f"Workers ({machine()})", rows)
    finally:
        shutil.rmtree(folder)


def make_job(folder: Path) -> ExtractionJob:
    """Block 28 of the model in `folder`/flux, with its prompt encoded."""
    backbone, model = (
        Flux(timestep=260, blocks=[28], ensemble_size=4),
        pin("flux", str(folder / "flux"), "main", Hashes(None)),
    )
    encode_prompts(["x"], folder / "texts", model, backbone, torch.float32, "cpu")
    return ExtractionJob(model, backbone, "longer", 256, 0, "float16", folder / "texts", "float32", "float32", "cpu", 4)


def make_source(folder: Path, number: int) -> ImageSource:
    """A random image in `folder`."""
    path = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return ImageSource.from_file(str(number), path, "x")


def _extract(client: Any, folder: Path, sources: list[ImageSource], job: ExtractionJob) -> None:
    extract(folder, sources, job, client)


def _videos(folder: Path) -> FeatureStore:
    items = [StoreItem(f"{s}/{t}", f"{s} {t}", GRID, SIZE, "") for s in range(SEQUENCES) for t in range(FRAMES)]
    frames = (frame for s in tqdm(range(SEQUENCES), "videos") for frame in video(FRAMES, *GRID, seed=s))
    return write_store(folder / "videos", items, ({24: (frame, None)} for frame in frames))


def _propagate(client: Any, folder: Path, store: FeatureStore, frames: int = FRAMES) -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[100:300, 200:500] = 1
    tasks = []
    for s in range(SEQUENCES):
        names = [(f"{s}/{t}", f"{t:05d}") for t in range(frames)]
        job = SequenceJob(store, 24, "original", [], names, encode_mask(mask))
        tasks.append((str(s), (job, PropagationConfig(), folder / "masks" / str(s))))
    assert sum(count for _, count in run(client, propagate_sequence, tasks)) == SEQUENCES * frames


if __name__ == "__main__":
    main()
