"""A few numbers that each class computes on a tiny input, recorded in `answers.json` beside the class's version.

After a change of results: raise `version` in the class that you changed, run `python -m tests.answers`, and commit the
new `answers.json`.
"""

import json
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ditf.backbones.base import Backbone
from ditf.backbones.source import pin
from ditf.data.catalog import Catalog, write_catalog
from ditf.data.images import resize_for_model
from ditf.data.prepare_ap10k import prepare_ap10k
from ditf.datasets.base import Dataset
from ditf.features.extractor import Extractor
from ditf.features.store_writer import StoreItem, write_store
from ditf.files import Hashes
from ditf.matching.matchers.base import Matcher
from ditf.registry import find_type, registered, version_of
from ditf.sample.ade20k import build_ade20k
from ditf.sample.ap10k import build_ap10k
from ditf.sample.davis import build_davis
from ditf.sample.pf_pascal import build_pf_pascal
from ditf.sample.pf_willow import build_pf_willow
from ditf.sample.photos import build_photos
from ditf.sample.spair import build_spair
from ditf.settings import parse
from ditf.tasks.base import Task
from tests.test_class_masks import make_cityscapes, make_voc
from tests.test_datasets import make_video
from tests.test_homography import make as make_hpatches

FILE = Path(__file__).with_name("answers.json")
Answer = dict[str, float]
BASES: Mapping[str, type] = {"backbones": Backbone, "datasets": Dataset, "matchers": Matcher, "tasks": Task}
CLASSES = [(kind, name) for kind, base in BASES.items() for name in registered(base)]


def compute(kind: str, name: str) -> Answer:
    """Return the numbers of a class.

    Args:
        kind: A key of `BASES`.
        name: The type.
    """
    with tempfile.TemporaryDirectory() as folder:
        return COMPUTERS[kind](name, Path(folder))


def identity(kind: str, name: str) -> str:
    """Return the version of a class and its bases."""
    return version_of(find_type(BASES[kind], name))


def _backbone(name: str, folder: Path) -> Answer:
    """Features of a small image from a tiny random model."""
    model = pin(name, "tiny-0", "main", Hashes(None))
    settings = find_type(Backbone, name)(blocks=[1])
    loaded = settings.load(model, torch.float32, "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    text = next(iter(settings.encode_prompts(model, ["a cat"], torch.float32, "cpu")))
    extractor = Extractor(loaded, settings)
    tokens, modulation = extractor.features(resize_for_model(pixels, "longer", 64, loaded.stride), text, "0")[1]
    return _numbers("tokens", tokens) | ({} if modulation is None else _numbers("modulation", modulation))


def _dataset(name: str, folder: Path) -> Answer:
    """Rows and sums of the tables of a sample."""
    answer: Answer = {}
    for table, rows in _entry(name, folder).read().rows.items():
        answer[f"{table} rows"] = len(rows)
        for column in rows[0] if rows else ():
            if "sha256" not in column:
                answer[f"{table} {column}"] = sum(map(_number, (row[column] for row in rows)))
    return answer


def _matcher(name: str, folder: Path) -> Answer:
    """Matches of random descriptors."""
    rng = np.random.default_rng(0)
    queries, tokens = (rng.standard_normal((count, 8)).astype(np.float32) for count in (5, 20))
    points, similarity = find_type(Matcher, name)(type=name).match(queries, tokens, (4, 5), (50, 40))
    confidence = find_type(Matcher, name)(type=name).confidence(similarity, np.arange(5.0))
    return _numbers("points", points) | _numbers("similarity", similarity) | _numbers("confidence", confidence)


def _task(name: str, folder: Path) -> Answer:
    """Metrics of random features of a sample."""
    samples = {"propagation": "davis", "segmentation": "ade20k", "homography": "hpatches"}
    write_catalog(folder / "catalog", _entry(samples.get(name, "spair"), folder).read())
    catalog = Catalog(folder / "catalog")
    items = [StoreItem(item, item, (6, 8), (row["width"], row["height"]), "") for item, row in catalog.images().items()]
    tokens = np.random.default_rng(0).standard_normal((len(items), 48, 8)).astype(np.float32)
    store = write_store(folder / "store", items, [{0: (image, None)} for image in tokens], "float32")
    entry = {"type": name, "dataset": "a", "features": "a", "score": {}}
    task = parse(find_type(Task, name), entry | {"predict": {"block": 0, "descriptors": ["original"]}}, "")
    task.make_predictions(store, catalog, folder / "predictions", None)
    return task.compute_metrics(catalog, folder / "predictions", folder / "tables").metrics["original"]


COMPUTERS: Mapping[str, Callable[[str, Path], Answer]] = {
    "backbones": _backbone,
    "datasets": _dataset,
    "matchers": _matcher,
    "tasks": _task,
}


def _entry(name: str, folder: Path) -> Dataset:
    """Build the sample of a data set, and return its settings."""
    root, settings = folder / "root", dict[str, Any]()
    builders: Mapping[str, Callable[[Path], Any]] = {
        "ade20k": lambda root: build_ade20k(root, 0),
        "ap10k": _build_ap10k,
        "cityscapes": make_cityscapes,
        "davis": lambda root: build_davis(root, 0),
        "folder": build_photos,
        "hpatches": make_hpatches,
        "pascal_voc": make_voc,
        "pf_pascal": lambda root: build_pf_pascal(root, 0),
        "pf_willow": lambda root: build_pf_willow(root, 0),
        "spair": lambda root: build_spair(root, 0),
        "spair_u": lambda root: build_spair(root, 0),
        "video": lambda root: make_video(root, 3),
    }
    builders[name](root)
    if name == "hpatches":
        settings = {"most": 40, "keypoints": None}
    return parse(find_type(Dataset, name), {"type": name, "root": str(root), **settings}, "")


def _build_ap10k(root: Path) -> None:
    build_ap10k(root, 0)
    prepare_ap10k(root, 0, None)


def _numbers(name: str, values: NDArray[Any]) -> Answer:
    """Return the mean and the spread of an array, and its first value."""
    return {
        f"{name} mean": float(np.mean(values)),
        f"{name} spread": float(np.std(values)),
        f"{name} first": float(np.ravel(values)[0]),
    }


def _number(value: Any) -> float:
    """Return a number that stands for a value in a table."""
    if isinstance(value, (list, tuple)):
        return sum(map(_number, value))
    if isinstance(value, (bool, int, float, np.number)):
        return float(value)
    return 0.0 if value is None else float(zlib.crc32(value if isinstance(value, bytes) else str(value).encode()))


def main() -> None:
    answers = {
        kind: {
            name: {"version": identity(kind, name), "answer": compute(kind, name)}
            for known, name in CLASSES
            if known == kind
        }
        for kind in BASES
    }
    FILE.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
