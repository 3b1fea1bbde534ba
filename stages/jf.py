"""J and F of the propagated masks -> results/davis/jf.json (metrics), jf_objects.csv, jf_sequences.csv."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.catalog import read_table
from pipeline.datasets.davis import by_sequence, read_mask
from pipeline.engine import engine
from pipeline.images import read_index_mask
from pipeline.segmentation import evaluate_frame, summarize
from stages import CATALOGS, RESULTS, Params, run


def main(params: Params) -> None:
    d, folder = params.davis, RESULTS / "davis"
    sequences = by_sequence(read_table(CATALOGS / "davis", "frames"))
    objects = {row["sequence"]: row["objects"] for row in read_table(CATALOGS / "davis", "sequences")}
    masks = {row["id"]: Path(d.root).resolve() / row["path"] for row in read_table(CATALOGS / "davis", "masks")}

    metrics: dict[str, dict[str, float]] = {}
    tables: dict[str, list[dict[str, object]]] = {"objects": [], "sequences": []}
    total = len(d.descriptors) * len(sequences)
    predicted = (folder / "masks").resolve()
    with engine(params.dask.engine) as workers, tqdm(desc="J&F", total=total, unit="sequence", delay=2) as bar:
        for descriptor in d.descriptors:
            measures: dict[str, NDArray[np.float64]] = {}
            members: dict[str, list[str]] = defaultdict(list)
            tasks = (
                (
                    sequence,
                    (
                        [
                            (masks[f["id"]], predicted / descriptor / sequence / f"{f['name']}.png")
                            for f in frames[1:-1]
                        ],
                        d.year,
                        objects[sequence],
                    ),
                )
                for sequence, frames in sequences.items()
            )
            for sequence, inner in zip(sequences, workers.map(evaluate, tasks), strict=True):
                for index, values in enumerate(inner, 1):
                    measures[f"{sequence}_{index}"] = values
                    members[sequence].append(f"{sequence}_{index}")
                bar.update()
            metrics[descriptor] = {name: round(value, 6) for name, value in summarize(measures).items()}
            for name in measures:
                tables["objects"].append(_row(descriptor, "object", name, {name: measures[name]}))
            for name, parts in members.items():
                tables["sequences"].append(_row(descriptor, "sequence", name, {part: measures[part] for part in parts}))
    (folder / "jf.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    for name, rows in tables.items():
        with (folder / f"jf_{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def evaluate(frames: list[tuple[Path, Path]], year: int, objects: int) -> NDArray[np.float64]:
    """J and F of one sequence, [objects, frames, 2], from the paths of (true, predicted) masks."""
    pairs = ((read_mask(true, year), read_index_mask(predicted)) for true, predicted in frames)
    return np.stack([evaluate_frame(true, predicted, objects) for true, predicted in pairs], 1)


def _row(descriptor: str, kind: str, name: str, measures: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    figures = {key: f"{value:.6f}" for key, value in summarize(measures).items()}
    return {"descriptor": descriptor, kind: name, **figures}


if __name__ == "__main__":
    run(main)
