"""Building an index: a FAISS index of every token of a store, and one of whole images.

    <index>/tokens.faiss    unit descriptors, in the order of the store's items and tokens
    <index>/images.faiss    each image's mean unit descriptor, exact
    <index>/rows.parquet    row -> image, token, box in pixels of the image
    <index>/index.json      what it was built from and how, and the SHA-256 of the other files

A store of many tokens is reduced to its principal axes and to a byte per axis, in cells of which a search reads the
nearest; see `ditf.retrieval.search`.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.reader import FeatureReader
from ditf.files import fingerprint, sha256_of, write_atomically
from ditf.types import Descriptor
from ditf.workers import run

if TYPE_CHECKING:
    from distributed import Client

Floats = NDArray[np.float32]
Linear = tuple[Floats, Floats]  # of a linear transform: matrix [axes, C] and bias [axes]

FILES = ("tokens.faiss", "images.faiss", "rows.parquet")
FLAT_TOKENS = 50_000  # more are not kept whole unless asked for
AXES = 192  # principal axes kept of a descriptor
AXES_SAMPLE = 12_000  # tokens that these are found from: 150 MB at 3072 channels
CELL_SAMPLE = 40  # tokens per cell that the cells are found from
SAMPLE_ITEMS = 1024  # images that all of these come from, at most
PROBED = 1 / 32  # share of the cells that a search reads
BEAM = 128  # candidates that a search of a graph keeps
ROW_GROUP = 64  # images in a row group of rows.parquet
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
class IndexSettings:
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
    strings = {
        "flat": "Flat",
        "ivfsq": f"{reduced}IVF{cells},SQ8",
        "ivfpq": f"{reduced}IVF{cells},PQ{max(1, axes // 4)}np",  # not polysemous: slow to train, and of no use here
        "hnsw": f"{reduced}HNSW32_SQ8",
    }
    return strings.get(kind, kind)


def build(
    store: FeatureReader, settings: IndexSettings, folder: Path, client: "Client | None" = None
) -> dict[str, float]:
    """Index every token of `store`, reading it item by item.

    Args:
        store: the features.
        settings: of the index.
        folder: where the index is written.
        client: of the workers that read and reduce the descriptors; they are added to the index here.

    Returns:
        recall@1, @10 and @100 of the token index alone against exact search, for tokens that are left out of their own
        answers.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    tokens = int(store.grids(settings.block).prod(1, dtype=np.int64).sum())
    channels = store.channels(settings.block)
    factory = factory_string(settings.kind, tokens, channels)
    index, inner, linear = _train(store, settings, factory, tokens, channels)
    images = faiss.IndexFlatIP(channels)
    exact = _Exact(store, settings, tokens)
    boxes: list[pa.Table] = []
    with pq.ParquetWriter(folder / "rows.parquet", ROWS) as rows:
        tasks = ((store.ids[n], (store, settings, n, linear, exact.queries)) for n in range(len(store)))
        parts = tqdm(_in_order(run(client, _reduced, tasks), store.ids), "index", len(store), unit="image", delay=1)
        for number, (reduced, mean, similarity) in enumerate(parts):
            inner.add(reduced)
            images.add(mean)
            exact.add(similarity)
            boxes.append(_rows_of_image(store, settings.block, store.ids[number]))
            if number + 1 == len(store) or len(boxes) == ROW_GROUP:
                rows.write_table(pa.concat_tables(boxes))
                boxes = []
    index.ntotal = inner.ntotal
    for name, part in (("tokens", index), ("images", images)):
        faiss.write_index(part, str(folder / f"{name}.faiss"))
    extraction_config = {"store": store.digest, "tokens": tokens, "factory": factory, **asdict(settings)}
    extraction_config |= {
        "channels": list(settings.channels),
        "sha256": {name: sha256_of(folder / name) for name in FILES},
    }
    extraction_config["checksum"] = fingerprint(extraction_config)
    write_atomically(folder / "index.json", json.dumps(extraction_config, indent=1).encode() + b"\n")
    size = sum(path.stat().st_size for path in folder.glob("*.faiss"))
    print(f"{factory}: {tokens:,} tokens of {len(store):,} images, {size:,} bytes, {time.perf_counter() - start:.1f} s")
    return exact.recall(index)


def described(store: FeatureReader, settings: IndexSettings, item: str) -> Floats:
    """Unit descriptors of an item, [n, C]."""
    return unit(store.features(settings.block, item).descriptors(settings.descriptor, settings.channels))


def _in_order(results: Iterator[tuple[str, Any]], names: list[str]) -> Iterator[Any]:
    """Results in the order of `names`; workers finish them in any."""
    waiting: dict[str, Any] = {}
    for name in names:
        while name not in waiting:
            finished, result = next(results)
            waiting[finished] = result
        yield waiting.pop(name)


def token_boxes(grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the boxes x0, y0, x1, y1 of all tokens of an image in pixels, [h * w, 4].

    Args:
        grid: Rows and columns of tokens, (h, w).
        size: Width and height of the image in pixels.
    """
    y, x = (index.ravel() for index in np.indices(grid))
    width, height = size[0] / grid[1], size[1] / grid[0]
    return np.stack([x * width, y * height, (x + 1) * width, (y + 1) * height], 1)


def _rows_of_image(store: FeatureReader, block: int, image: str) -> pa.Table:
    """Return the rows of an image in rows.parquet."""
    boxes = token_boxes(store.grid(image, block), store.size(image))
    columns = [[image] * len(boxes), np.arange(len(boxes)), *boxes.T]
    return pa.table([pa.array(c).cast(f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)


def _train(
    store: FeatureReader, settings: IndexSettings, factory: str, tokens: int, channels: int
) -> tuple[Any, Any, Linear | None]:
    """An empty index, trained on tokens from images all over the store; its part after the transform, if there is one;
    and the transform.

    Distances order unit descriptors as cosines do, and do not change where all are moved.
    """
    try:
        index: Any = faiss.index_factory(channels, factory, faiss.METRIC_L2)
    except RuntimeError:
        raise UserError(f"kind: {settings.kind!r} is not a kind of index, nor a factory string of FAISS") from None
    reduces = isinstance(index, faiss.IndexPreTransform)
    inner = faiss.downcast_index(index.index) if reduces else index
    cells = faiss.try_extract_index_ivf(inner)
    if cells is not None:
        cells.nprobe = max(1, round(cells.nlist * PROBED))
        if faiss.get_num_gpus():
            cells.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(cells.d))
    if hasattr(inner, "hnsw"):
        inner.hnsw.efSearch = BEAM
    sample = _sample(store, settings, max(AXES_SAMPLE, CELL_SAMPLE * (cells.nlist if cells is not None else 0)))
    try:
        if not reduces:
            inner.train(np.concatenate(list(sample)))
            return index, inner, None
        first = next(sample)
        transform: Any = faiss.downcast_VectorTransform(index.chain.at(0))
        transform.train(first)
        matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
        linear = (
            matrix,
            faiss.vector_to_array(transform.b) if transform.have_bias else np.zeros(len(matrix), np.float32),
        )
        if isinstance(transform, faiss.PCAMatrix):  # applied by A and b: the file need not hold every axis
            transform.PCAMat.clear()
            transform.eigenvalues.clear()
        inner.train(np.concatenate([_apply(linear, part) for part in itertools.chain([first], sample)]))
        index.is_trained = True
    except (RuntimeError, AttributeError) as error:
        reason = str(error).rpartition("Error: ")[2].strip() or str(error)
        raise UserError(
            f"kind: {factory!r} cannot be trained on {tokens} tokens of {channels} channels "
            f"({' '.join(reason.split()):.200}); use `flat`"
        ) from None
    return index, inner, linear


def _apply(linear: Linear, descriptors: Floats) -> Floats:
    """Descriptors [n, C] along the axes of a transform, [n, axes]."""
    return np.asarray(descriptors @ linear[0].T + linear[1], np.float32)


def _sample(store: FeatureReader, settings: IndexSettings, count: int) -> Iterator[Floats]:
    """About `count` unit descriptors from images all over the store: first those for the axes, then the others."""
    rng = np.random.default_rng(SEED)
    items = rng.permutation(len(store))[:SAMPLE_ITEMS]
    share = count / max(1, store.grids(settings.block)[items].prod(1, dtype=np.int64).sum())
    parts: list[Floats] = []
    for number in tqdm(items, "sample", unit="image", delay=1):
        tokens_of = described(store, settings, store.ids[number])
        chosen = rng.permutation(len(tokens_of))[: math.ceil(len(tokens_of) * share)]
        parts.append(tokens_of[np.sort(chosen)])
        if sum(map(len, parts)) >= AXES_SAMPLE:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)


def _reduced(
    store: FeatureReader, settings: IndexSettings, number: int, linear: Linear | None, queries: Floats
) -> tuple[Floats, Floats, Floats]:
    """Of an item: what is added to the index [n, axes], its mean unit descriptor [1, C], similarities [queries, n]."""
    tokens = described(store, settings, store.ids[number])
    mean = unit(tokens.mean(0, keepdims=True))
    return tokens if linear is None else _apply(linear, tokens), mean, queries @ tokens.T


class _Exact:
    """Exact answers to a few queries, found while the store streams by."""

    def __init__(self, store: FeatureReader, settings: IndexSettings, tokens: int) -> None:
        rng = np.random.default_rng([SEED, 1])
        self._own = np.sort(rng.choice(tokens, min(QUERIES, tokens), replace=False))
        ends = np.cumsum(store.grids(settings.block).prod(1, dtype=np.int64))
        items = np.searchsorted(ends, self._own, side="right")
        places = self._own - np.concatenate([[0], ends])[items]
        vectors = [described(store, settings, store.ids[n])[places[items == n]] for n in np.unique(items)]
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
        neighbours = index.search(self.queries, min(max(RECALL) + 1, self._seen))[1]
        result = {}
        for k in RECALL:
            if k < self._seen:
                hits = [
                    np.isin(t[:k], f[f != own][:k]).mean()
                    for t, f, own in zip(truth, neighbours, self._own, strict=True)
                ]
                result[f"recall@{k}"] = round(float(np.mean(hits)), 4)
        return result
