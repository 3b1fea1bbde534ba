"""Build an index: a FAISS index of the tokens of a store, and one of its images.

    <index>/tokens.faiss    unit descriptors, in the order of the store's images and tokens
    <index>/images.faiss    mean unit descriptor of each image, exact
    <index>/rows.parquet    image, token and box in pixels of each row of tokens.faiss
    <index>/index.json      digest of the store, settings, and SHA-256 of the other files

The descriptors of a large store are reduced to their principal axes and rounded to one byte per axis. They are grouped
into cells, and a search reads only the nearest cells; see `ditf.retrieval.search`.
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
Linear = tuple[Floats, Floats]  # linear transform: matrix [axes, C] and bias [axes]

FILES = ("tokens.faiss", "images.faiss", "rows.parquet")
FLAT_TOKENS = 50_000  # largest number of tokens for which "auto" means an exact index
AXES = 192  # principal axes of reduced descriptors
AXES_SAMPLE = 12_000  # tokens from which the axes are computed: 150 MB at 3072 channels
CELL_SAMPLE = 40  # tokens per cell from which the cells are computed
SAMPLE_ITEMS = 1024  # most images from which these tokens come
PROBED = 1 / 32  # share of the cells that a search reads
BEAM = 128  # candidates that the search of an HNSW graph keeps
ROW_GROUP = 64  # images in a row group of rows.parquet
SEED = 0  # seed of the samples and the queries
QUERIES = 100  # tokens that measure recall
RECALL = (1, 10, 100)  # numbers of nearest neighbours for which recall is measured

ROWS = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("token", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("x0", "y0", "x1", "y1")),
    ]
)


@dataclass(frozen=True)
class IndexSettings:
    """Descriptors of an index, and its kind.

    Attributes:
        kind: "auto", "flat", "ivfsq", "ivfpq", "hnsw", or a FAISS factory string.
        block: Block of the model.
        descriptor: Descriptor that is indexed.
        channels: Massive channels, for descriptors with "+discard".
    """

    kind: str
    block: int
    descriptor: Descriptor
    channels: tuple[int, ...]


def factory_string(kind: str, tokens: int, channels: int) -> str:
    """Return the FAISS factory string of a kind of index.

    Args:
        kind: Kind of index, as in `IndexSettings`.
        tokens: Number of descriptors.
        channels: Number of channels of a descriptor.
    """
    if kind == "auto":
        kind = "flat" if tokens <= FLAT_TOKENS else "ivfsq"
    axes = min(AXES, channels) // 4 * 4 or channels
    reduced = f"PCA{axes}," if axes < channels else ""
    cells = 2 ** max(0, round(np.log2(max(tokens, 1)) / 2))
    strings = {
        "flat": "Flat",
        "ivfsq": f"{reduced}IVF{cells},SQ8",
        "ivfpq": f"{reduced}IVF{cells},PQ{max(1, axes // 4)}np",  # "np" skips the slow training of polysemous codes
        "hnsw": f"{reduced}HNSW32_SQ8",
    }
    return strings.get(kind, kind)


def build(
    store: FeatureReader, settings: IndexSettings, folder: Path, client: "Client | None" = None
) -> dict[str, float]:
    """Index every token of a store, reading one image at a time.

    Args:
        store: Features to index.
        settings: Descriptors and kind of the index.
        folder: Folder of the index.
        client: Dask client of the workers that read and reduce descriptors. None does this in the current process.

    Returns:
        recall@1, recall@10 and recall@100 of the token index against exact search, as fractions. The queries are tokens
        of the store, and a query does not count as its own neighbour.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    tokens = int(store.grids(settings.block).prod(1, dtype=np.int64).sum())
    channels = store.channels(settings.block)
    factory = factory_string(settings.kind, tokens, channels)
    index, inner, linear = _train(store, settings, factory, tokens, channels)
    images = faiss.IndexFlatIP(channels)
    recall = RecallMeasurement(store, settings, tokens)
    boxes: list[pa.Table] = []
    with pq.ParquetWriter(folder / "rows.parquet", ROWS) as rows:
        tasks = ((store.ids[n], (store, settings, n, linear, recall.queries)) for n in range(len(store)))
        results = tqdm(
            _in_order(run(client, _reduce_image, tasks), store.ids), "index", len(store), unit="image", delay=1
        )
        for number, (reduced, mean, similarity) in enumerate(results):
            inner.add(reduced)
            images.add(mean)
            recall.add(similarity)
            boxes.append(_rows_of_image(store, settings.block, store.ids[number]))
            if number + 1 == len(store) or len(boxes) == ROW_GROUP:
                rows.write_table(pa.concat_tables(boxes))
                boxes = []
    index.ntotal = inner.ntotal
    faiss.write_index(index, str(folder / "tokens.faiss"))
    faiss.write_index(images, str(folder / "images.faiss"))
    record = {"store": store.digest, "tokens": tokens, "factory": factory, **asdict(settings)}
    record |= {"channels": list(settings.channels), "sha256": {name: sha256_of(folder / name) for name in FILES}}
    record["checksum"] = fingerprint(record)
    write_atomically(folder / "index.json", json.dumps(record, indent=1).encode() + b"\n")
    size = sum(path.stat().st_size for path in folder.glob("*.faiss"))
    print(f"{factory}: {tokens:,} tokens of {len(store):,} images, {size:,} bytes, {time.perf_counter() - start:.1f} s")
    return recall.compute(index)


def unit_descriptors(store: FeatureReader, settings: IndexSettings, item: str) -> Floats:
    """Return the unit descriptors of an image, [n, C]."""
    return unit(store.features(settings.block, item).descriptors(settings.descriptor, settings.channels))


def _in_order(results: Iterator[tuple[str, Any]], names: list[str]) -> Iterator[Any]:
    """Yield results in the order of their names. Workers finish them in any order."""
    waiting: dict[str, Any] = {}
    for name in names:
        while name not in waiting:
            finished, result = next(results)
            waiting[finished] = result
        yield waiting.pop(name)


def token_boxes(grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float64]:
    """Compute the boxes of all tokens of an image.

    Args:
        grid: Rows and columns of tokens, (h, w).
        size: Width and height of the image in pixels.

    Returns:
        Corners x0, y0, x1, y1 in pixels, [h * w, 4].
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
    """Train an empty index on a sample of tokens.

    The index uses Euclidean distance. It orders unit descriptors as cosine similarity does, and centring the
    descriptors for the principal axes does not change it.

    Args:
        store: Features to index.
        settings: Descriptors and kind of the index.
        factory: FAISS factory string.
        tokens: Number of tokens of the store.
        channels: Number of channels of a descriptor.

    Returns:
        The index, the index of reduced descriptors inside it, and the transform that reduces descriptors. Without such
        a transform, the first two are the same and the third is None.
    """
    try:
        index: Any = faiss.index_factory(channels, factory, faiss.METRIC_L2)
    except RuntimeError:
        raise UserError(
            f"kind: {settings.kind!r} is neither a kind of index nor a factory string of FAISS. Use auto, flat, ivfsq, "
            "ivfpq or hnsw."
        ) from None
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
        if isinstance(transform, faiss.PCAMatrix):  # only A and b are used; the other axes would enlarge the file
            transform.PCAMat.clear()
            transform.eigenvalues.clear()
        inner.train(np.concatenate([_apply(linear, chunk) for chunk in itertools.chain([first], sample)]))
        index.is_trained = True
    except (RuntimeError, AttributeError) as error:
        reason = str(error).rpartition("Error: ")[2].strip() or str(error)
        raise UserError(
            f"kind: {factory!r} cannot be trained on {tokens} tokens of {channels} channels "
            f"({' '.join(reason.split()):.200}). Use flat."
        ) from None
    return index, inner, linear


def _apply(linear: Linear, descriptors: Floats) -> Floats:
    """Apply a transform to descriptors [n, C] and return the result, [n, axes]."""
    return np.asarray(descriptors @ linear[0].T + linear[1], np.float32)


def _sample(store: FeatureReader, settings: IndexSettings, count: int) -> Iterator[Floats]:
    """Draw unit descriptors from random images of a store.

    Args:
        store: Features to draw from.
        settings: Descriptors of the index.
        count: Approximate number of descriptors.

    Yields:
        Chunks of at least `AXES_SAMPLE` descriptors, [n, C]. The last chunk may be smaller.
    """
    rng = np.random.default_rng(SEED)
    items = rng.permutation(len(store))[:SAMPLE_ITEMS]
    share = count / max(1, store.grids(settings.block)[items].prod(1, dtype=np.int64).sum())
    chunk: list[Floats] = []
    for number in tqdm(items, "sample", unit="image", delay=1):
        descriptors = unit_descriptors(store, settings, store.ids[number])
        chosen = rng.permutation(len(descriptors))[: math.ceil(len(descriptors) * share)]
        chunk.append(descriptors[np.sort(chosen)])
        if sum(map(len, chunk)) >= AXES_SAMPLE:
            yield np.concatenate(chunk)
            chunk = []
    if chunk:
        yield np.concatenate(chunk)


def _reduce_image(
    store: FeatureReader, settings: IndexSettings, number: int, linear: Linear | None, queries: Floats
) -> tuple[Floats, Floats, Floats]:
    """Compute what an image adds to the indexes.

    Args:
        store: Features to index.
        settings: Descriptors of the index.
        number: Position of the image in the store.
        linear: Transform that reduces descriptors, or None.
        queries: Unit descriptors that measure recall, [q, C].

    Returns:
        Reduced descriptors, [n, axes], the mean unit descriptor, [1, C], and the cosine similarities of the queries and
        the image's tokens, [q, n].
    """
    tokens = unit_descriptors(store, settings, store.ids[number])
    mean = unit(tokens.mean(0, keepdims=True))
    return tokens if linear is None else _apply(linear, tokens), mean, queries @ tokens.T


class RecallMeasurement:
    """Recall of an index for a few tokens of the store. The exact neighbours are updated with one image at a time.

    Args:
        store: Features that are indexed.
        settings: Descriptors of the index.
        tokens: Number of tokens of the store.

    Attributes:
        queries: Unit descriptors of the query tokens, [q, C].
    """

    def __init__(self, store: FeatureReader, settings: IndexSettings, tokens: int) -> None:
        rng = np.random.default_rng([SEED, 1])
        self._query_rows = np.sort(rng.choice(tokens, min(QUERIES, tokens), replace=False))
        ends = np.cumsum(store.grids(settings.block).prod(1, dtype=np.int64))
        items = np.searchsorted(ends, self._query_rows, side="right")
        query_tokens = self._query_rows - np.concatenate([[0], ends])[items]
        vectors = [unit_descriptors(store, settings, store.ids[n])[query_tokens[items == n]] for n in np.unique(items)]
        self.queries: Floats = np.concatenate(vectors)
        self._similarity = np.empty((len(self._query_rows), 0), np.float32)
        self._rows = np.empty((len(self._query_rows), 0), np.int64)
        self._count = 0

    def add(self, similarity: Floats) -> None:
        """Update the exact neighbours with the similarities of the queries and the next image's tokens, [q, n]."""
        count = similarity.shape[1]
        rows = np.arange(self._count, self._count + count)
        similarity[self._query_rows[:, None] == rows] = -np.inf  # a query is not its own neighbour
        similarity = np.concatenate([self._similarity, similarity], 1)
        rows = np.concatenate([self._rows, np.broadcast_to(rows, (len(self._query_rows), count))], 1)
        kept = min(max(RECALL), similarity.shape[1])
        best = np.argpartition(-similarity, kept - 1, axis=1)[:, :kept]
        self._similarity = np.take_along_axis(similarity, best, 1)
        self._rows = np.take_along_axis(rows, best, 1)
        self._count += count

    def compute(self, index: Any) -> dict[str, float]:
        """Compute the recall of an index against the exact neighbours.

        Args:
            index: A FAISS index of all tokens.

        Returns:
            For each k of `RECALL`, the fraction of the exact k nearest tokens that are among the k nearest of the
            index, averaged over the queries, by the name "recall@k".
        """
        order = np.argsort(-self._similarity, axis=1, kind="stable")
        exact = np.take_along_axis(self._rows, order, 1)
        approximate = index.search(self.queries, min(max(RECALL) + 1, self._count))[1]
        recall = {}
        for k in RECALL:
            if k < self._count:
                fractions = [
                    np.isin(exact_rows[:k], rows[rows != query_row][:k]).mean()
                    for exact_rows, rows, query_row in zip(exact, approximate, self._query_rows, strict=True)
                ]
                recall[f"recall@{k}"] = round(float(np.mean(fractions)), 4)
        return recall
