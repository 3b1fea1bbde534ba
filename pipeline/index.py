"""Building an index: a FAISS index of every token of a store, and one of whole images.

    <index>/tokens.faiss    unit descriptors, in the order of the store's items and tokens
    <index>/images.faiss    each image's mean unit descriptor, exact
    <index>/rows.parquet    row -> image, token, box in pixels of the image
    <index>/index.json      what it was built from and how

A store of many tokens is reduced to its principal axes and to a byte an axis, in cells of which a search
reads the nearest; see `pipeline.search`.
"""

import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.descriptors import Descriptor, unit
from pipeline.engine import HERE, Engine
from pipeline.errors import UserError
from pipeline.store import FeatureStore
from pipeline.writer import write_durably

Floats = NDArray[np.float32]

FLAT_TOKENS = 50_000  # more are not kept whole unless asked for
AXES = 192  # principal axes kept of a descriptor
AXES_SAMPLE = 12_000  # tokens that these are found from: 150 MB at 3072 channels
CELL_SAMPLE = 40  # tokens a cell that the cells are found from
SAMPLE_ITEMS = 1024  # images that all of these come from, at most
PROBED = 1 / 32  # share of the cells that a search reads
BEAM = 128  # candidates that a search of a graph keeps
IMAGES_A_GROUP = 64  # in a row group of rows.parquet
SEED = 0  # of the samples and the queries
QUERIES = 100  # tokens held out to measure recall
RECALL = (1, 10, 100)

ROWS = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("token", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("x0", "y0", "x1", "y1")),
    ]
)


@dataclass(frozen=True)
class Settings:
    """What is indexed and how. kind: auto, flat, ivfsq, ivfpq, hnsw, or a FAISS factory string."""

    kind: str
    block: int
    descriptor: Descriptor
    channels: tuple[int, ...]


def factory_string(kind: str, tokens: int, channels: int) -> str:
    """The FAISS factory string of a kind for `tokens` descriptors of `channels` channels."""
    if kind == "auto":
        kind = "flat" if tokens <= FLAT_TOKENS else "ivfsq"
    axes = min(AXES, channels) // 4 * 4 or channels
    reduced = f"PCA{axes}," if axes < channels else ""
    cells = 2 ** max(0, round(np.log2(max(tokens, 1)) / 2))
    parts = max(1, axes // 4)
    strings = {
        "flat": "Flat",
        "ivfsq": f"{reduced}IVF{cells},SQ8",
        "ivfpq": f"{reduced}IVF{cells},PQ{parts}",
        "hnsw": f"{reduced}HNSW32_SQ8",
    }
    return strings.get(kind, kind)


def build(
    store: FeatureStore,
    sizes: Mapping[str, tuple[int, int]],
    settings: Settings,
    folder: Path,
    engine: Engine = HERE,
) -> dict[str, Any]:
    """Index every token of `store`, reading it item by item.

    Args:
        store: the features.
        sizes: (width, height) of each image, in pixels.
        settings: of the index.
        folder: where the index is written.
        engine: what reads and reduces the descriptors; they are added to the index here.

    Returns:
        Figures: the factory string, tokens, images, bytes, seconds, and recall@1, @10, @100 of the token index
        alone against exact search, for tokens held out of their own answers.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    tokens = int(store.grids.prod(1, dtype=np.int64).sum())
    channels = len(described(store, settings, 0)[0])
    factory = factory_string(settings.kind, tokens, channels)
    transform, inner = _train(store, settings, factory, tokens, channels)
    images = faiss.IndexFlatIP(channels)
    exact = _Exact(store, settings, tokens)
    boxes: list[pa.Table] = []
    with pq.ParquetWriter(folder / "rows.parquet", ROWS) as rows:
        tasks = ((store.ids[n], (store, settings, n, transform, exact.queries)) for n in range(len(store)))
        parts = tqdm(engine.map(_reduced, tasks), "index", len(store), unit="image", delay=1)
        for number, (reduced, mean, similarity) in enumerate(parts):
            inner.add(reduced)
            images.add(mean)
            exact.add(similarity)
            boxes.append(_boxes(store, number, sizes[store.ids[number]]))
            if number + 1 == len(store) or len(boxes) == IMAGES_A_GROUP:
                rows.write_table(pa.concat_tables(boxes))
                boxes = []
    index = inner if transform is None else faiss.IndexPreTransform(transform.for_faiss(), inner)
    seconds = time.perf_counter() - start
    for name, part in (("tokens", index), ("images", images)):
        faiss.write_index(part, str(folder / f"{name}.faiss"))
    made_by = {"store": store.digest, "tokens": tokens, "factory": factory, **asdict(settings)}
    write_durably(folder / "index.json", json.dumps(made_by, indent=1).encode() + b"\n")
    return {
        "factory": factory,
        "tokens": tokens,
        "images": len(store),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.faiss")),
        "seconds": round(seconds, 2),
        **exact.recall(index),
    }


def described(store: FeatureStore, settings: Settings, number: int) -> Floats:
    """Unit descriptors of the store's item at `number`, [n, C]."""
    return unit(store.descriptors(settings.block, store.ids[number], settings.descriptor, settings.channels))


def _boxes(store: FeatureStore, number: int, size: tuple[int, int]) -> pa.Table:
    """The rows of one item in rows.parquet."""
    h, w = (int(n) for n in store.grids[number])
    y, x = (p.ravel() for p in np.indices((h, w)))
    across, down = size[0] / w, size[1] / h
    columns = [[store.ids[number]] * (h * w), np.arange(h * w), x * across, y * down, (x + 1) * across, (y + 1) * down]
    return pa.table([pa.array(c).cast(f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)


def _train(
    store: FeatureStore, settings: Settings, factory: str, tokens: int, channels: int
) -> tuple["Axes | None", Any]:
    """Axes, and an empty index of what they reduce, trained on tokens from images all over the store.

    Distances order unit descriptors as cosines do, and do not change where all are moved.
    """
    prefix, axes, rest = re.fullmatch(r"(PCA(\d+),)?(.*)", factory).groups()  # type: ignore[union-attr]
    try:
        inner = faiss.index_factory(int(axes) if prefix else channels, rest, faiss.METRIC_L2)
    except RuntimeError:
        raise UserError(
            f"params.yaml: index.kind: {settings.kind!r} is no kind, nor a factory string of FAISS"
        ) from None
    cells = faiss.try_extract_index_ivf(inner)
    if cells is not None:
        cells.nprobe = max(1, round(cells.nlist * PROBED))
        if faiss.get_num_gpus():
            cells.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(cells.d))
    if hasattr(inner, "hnsw"):
        inner.hnsw.efSearch = BEAM
    sample = _sample(store, settings, max(AXES_SAMPLE, CELL_SAMPLE * (cells.nlist if cells is not None else 0)))
    try:
        if not prefix:
            inner.train(np.concatenate(list(sample)))
            return None, inner
        first = next(sample)
        transform = Axes.of(first, int(axes))
        parts = [transform.apply(part) for part in itertools.chain([first], sample)]
        inner.train(np.concatenate(parts))
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2].strip() or str(error)
        raise UserError(
            f"params.yaml: index.kind: {factory!r} cannot be trained on {tokens} tokens of {channels} channels "
            f"({' '.join(reason.split()):.200}); use `flat`"
        ) from None
    return transform, inner


def _sample(store: FeatureStore, settings: Settings, count: int) -> Iterator[Floats]:
    """About `count` unit descriptors from images all over the store: first those for the axes, then the others."""
    rng = np.random.default_rng(SEED)
    items = rng.permutation(len(store))[:SAMPLE_ITEMS]
    share = count / max(1, store.grids[items].prod(1, dtype=np.int64).sum())
    parts: list[Floats] = []
    for number in tqdm(items, "sample", unit="image", delay=1):
        tokens_of = described(store, settings, number)
        chosen = rng.permutation(len(tokens_of))[: math.ceil(len(tokens_of) * share)]
        parts.append(tokens_of[np.sort(chosen)])
        if sum(map(len, parts)) >= AXES_SAMPLE:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)


@dataclass(frozen=True)
class Axes:
    """Leading principal axes of descriptors: matrix [axes, C], mean [C]."""

    matrix: Floats
    mean: Floats

    @classmethod
    def of(cls, sample: Floats, count: int) -> "Axes":
        """The `count` leading principal axes of `sample` [n, C]."""
        from scipy.linalg import eigh

        channels = sample.shape[1]
        if count > channels:
            raise RuntimeError(f"Error: {count} axes of {channels} channels")
        mean = sample.mean(0)
        centred = sample - mean
        _, vectors = eigh(centred.T @ centred, subset_by_index=[channels - count, channels - 1])
        return cls(np.ascontiguousarray(vectors[:, ::-1].T, np.float32), mean)

    def apply(self, descriptors: Floats) -> Floats:
        """Descriptors [n, C] along the axes, [n, axes]."""
        return np.asarray((descriptors - self.mean) @ self.matrix.T, np.float32)

    def for_faiss(self) -> Any:
        """The same as a `faiss.LinearTransform`."""
        transform = faiss.LinearTransform(self.matrix.shape[1], self.matrix.shape[0], True)
        faiss.copy_array_to_vector(self.matrix.ravel(), transform.A)
        faiss.copy_array_to_vector(-(self.matrix @ self.mean), transform.b)
        transform.is_trained = True
        return transform


def _reduced(
    store: FeatureStore, settings: Settings, number: int, axes: Axes | None, queries: Floats
) -> tuple[Floats, Floats, Floats]:
    """Of an item: what is added to the index [n, axes], its mean unit descriptor [1, C], similarities [queries, n]."""
    tokens = described(store, settings, number)
    return tokens if axes is None else axes.apply(tokens), unit(tokens.mean(0, keepdims=True)), queries @ tokens.T


class _Exact:
    """Exact answers to a few queries, found while the store streams by."""

    def __init__(self, store: FeatureStore, settings: Settings, tokens: int) -> None:
        rng = np.random.default_rng([SEED, 1])
        self._own = np.sort(rng.choice(tokens, min(QUERIES, tokens), replace=False))
        ends = np.cumsum(store.grids.prod(1, dtype=np.int64))
        items = np.searchsorted(ends, self._own, side="right")
        places = self._own - np.concatenate([[0], ends])[items]
        vectors = [described(store, settings, int(n))[places[items == n]] for n in np.unique(items)]
        self.queries: Floats = np.concatenate(vectors)
        self._similarity = np.empty((len(self._own), 0), np.float32)
        self._rows = np.empty((len(self._own), 0), np.int64)
        self._seen = 0

    def add(self, similarity: Floats) -> None:
        """Take in the similarities of the next item's tokens to the queries, [queries, n]."""
        count = similarity.shape[1]
        rows = np.arange(self._seen, self._seen + count)
        similarity[self._own[:, None] == rows] = -np.inf  # a query is not its own answer
        similarity = np.concatenate([self._similarity, similarity], 1)
        rows = np.concatenate([self._rows, np.broadcast_to(rows, (len(self._own), count))], 1)
        most = min(max(RECALL), similarity.shape[1])
        best = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        self._similarity = np.take_along_axis(similarity, best, 1)
        self._rows = np.take_along_axis(rows, best, 1)
        self._seen += count

    def recall(self, index: Any) -> dict[str, float]:
        """Which part of the exact k nearest is among the index's k nearest, {"recall@k": mean of the queries}."""
        order = np.argsort(-self._similarity, axis=1, kind="stable")
        truth = np.take_along_axis(self._rows, order, 1)
        found = index.search(self.queries, min(max(RECALL) + 1, self._seen))[1]
        result = {}
        for k in RECALL:
            if k < self._seen:
                hits = [
                    np.isin(t[:k], f[f != own][:k]).mean() for t, f, own in zip(truth, found, self._own, strict=True)
                ]
                result[f"recall@{k}"] = round(float(np.mean(hits)), 4)
        return result
