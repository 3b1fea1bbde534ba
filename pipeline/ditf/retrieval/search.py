"""Search an index that `ditf.retrieval.index` built.

FAISS returns candidates. Their similarities are then computed exactly from the descriptors of the store, so only the
choice of candidates is approximate.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.reader import FeatureReader
from ditf.files import fingerprint, sha256_of
from ditf.retrieval.index import FILES, Floats, IndexSettings, token_boxes, unit_descriptors

SHORTLIST = 4  # candidates per hit whose similarities are computed


@dataclass(frozen=True)
class SearchHit:
    """A token or a region of an image that is similar to a query.

    Attributes:
        image: Id of the image.
        token: Index of the token in row-major order; None for a region of several tokens.
        point: Centre (x, y) in pixels of the image.
        box: Corners (x0, y0, x1, y1) in pixels of the image.
        similarity: Cosine similarity to the query.
    """

    image: str
    token: int | None
    point: tuple[float, float]
    box: tuple[float, float, float, float]
    similarity: float


class FeatureIndex:
    """A search index, with the store whose tokens it indexes.

    Args:
        path: Folder of the index.
        store: Store that was indexed.

    Raises:
        UserError: The index is missing or damaged, or it belongs to another store.
    """

    def __init__(self, path: Path | str, store: FeatureReader) -> None:
        self.path, self.store = Path(path), store
        record = check_index(self.path)
        if record["store"] != store.digest:
            raise UserError(
                f"{path}: does not belong to the features in {store.path}. Run `dvc repro` to build it again."
            )
        self.tokens, self.factory = int(record["tokens"]), str(record["factory"])
        kind, block, descriptor = (record[name] for name in ("kind", "block", "descriptor"))
        self.settings = IndexSettings(kind, block, descriptor, tuple(record["channels"]))
        self._tokens, self._images = (faiss.read_index(str(self.path / f"{n}.faiss")) for n in ("tokens", "images"))
        self._cells = faiss.try_extract_index_ivf(self._tokens)
        counts = store.grids(block).prod(1, dtype=np.int64)
        self._starts = np.concatenate([[0], counts.cumsum()])  # first row of each image

    def __len__(self) -> int:
        return self.tokens

    def __repr__(self) -> str:
        return f"FeatureIndex({str(self.path)!r}, {self.tokens:,} tokens, {self.factory!r}, {self.settings.descriptor})"

    def descriptors(self, item: str) -> Floats:
        """Return the indexed descriptors of an image, with unit length, [n, C]."""
        return unit_descriptors(self.store, self.settings, item)

    def nearest(self, query: Floats, k: int) -> NDArray[np.int64]:
        """Find the nearest tokens of a query with FAISS alone.

        More cells are read if the nearest ones hold fewer than `k` tokens.

        Args:
            query: Descriptor of any length, [C].
            k: Number of tokens.

        Returns:
            Rows of the index, best first, [k]. An HNSW graph may return fewer.
        """
        probed = self._cells.nprobe if self._cells is not None else 0
        try:
            while True:
                rows = self._tokens.search(unit(query[None]), k)[1][0]
                rows = rows[rows >= 0]
                if len(rows) == k or self._cells is None or self._cells.nprobe >= self._cells.nlist:
                    return np.asarray(rows)
                self._cells.nprobe *= 2
        finally:
            if self._cells is not None:
                self._cells.nprobe = probed

    def search(
        self, query: Floats, k: int = 10, per_image: bool = False, exclude: str | None = None
    ) -> list[SearchHit]:
        """Find the tokens that are most similar to a descriptor.

        Args:
            query: Descriptor of any length, [C].
            k: Number of hits.
            per_image: Whether to return only the best hit of each image.
            exclude: Id of an image that is left out, such as the image of the query.

        Returns:
            Hits with exact cosine similarities, best first.
        """
        query = unit(np.asarray(query, np.float32)[None])[0]
        first, last = self._rows_of(exclude)
        available = self._images_without(exclude) if per_image else self.tokens - (last - first)
        self._check_count(k, available, "images" if per_image else "tokens")
        shortlist = k
        while True:
            shortlist = min(SHORTLIST * shortlist, self.tokens)
            rows = self.nearest(query, shortlist)
            hits = self._rescored(query, rows[(rows < first) | (rows >= last)])
            if per_image:
                hits = _best_per_image(hits)
            if len(hits) >= k or shortlist == self.tokens:
                return hits[:k]

    def search_regions(
        self, query: Floats, shape: tuple[int, int], k: int = 10, per_image: bool = True, exclude: str | None = None
    ) -> list[SearchHit]:
        """Find the regions that are most similar to a region.

        Regions of the same shape are searched in the images with the most similar tokens. The similarity of a region is
        the cosine similarity of the query and the mean of the region's unit descriptors.

        Args:
            query: Mean unit descriptor of a region, [C].
            shape: Rows and columns of tokens of the region.
            k: Number of hits.
            per_image: Whether to return only the best region of each image. Otherwise an image can have several
                regions, which do not overlap.
            exclude: Id of an image that is left out, such as the image of the query.

        Returns:
            Regions, best first.
        """
        query = unit(np.asarray(query, np.float32)[None])[0]
        images = self._images_without(exclude)
        self._check_count(k, images if per_image else self.tokens, "images" if per_image else "tokens")
        candidates = self.search(query, min(SHORTLIST * k, images), per_image=True, exclude=exclude)
        hits = [hit for candidate in candidates for hit in self._regions(candidate.image, query, shape)]
        hits.sort(key=lambda hit: -hit.similarity)
        return (_best_per_image(hits) if per_image else hits)[:k]

    def _regions(self, image: str, query: Floats, shape: tuple[int, int]) -> list[SearchHit]:
        """Choose regions of an image greedily by similarity, so that they do not overlap.

        Args:
            image: Id of the image.
            query: Unit descriptor, [C].
            shape: Rows and columns of tokens of a region.

        Returns:
            Regions, best first.
        """
        grid, size = self.store.grid(image, self.settings.block), self.store.size(image)
        tokens = self.descriptors(image).reshape(*grid, -1)
        rows, columns = min(shape[0], grid[0]), min(shape[1], grid[1])
        # Means over all windows, from cumulative sums along both axes.
        sums = np.zeros((grid[0] + 1, grid[1] + 1, tokens.shape[-1]))
        sums[1:, 1:] = tokens.cumsum(0, dtype=np.float64).cumsum(1)
        windows = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
        norms = np.maximum(np.linalg.norm(windows, axis=-1), 1e-12)
        similarity = (windows @ query.astype(np.float64)) / norms
        width, height = size[0] / grid[1], size[1] / grid[0]
        hits = []
        while np.isfinite(similarity).any():
            y, x = (int(index) for index in np.unravel_index(similarity.argmax(), similarity.shape))
            box = (x * width, y * height, (x + columns) * width, (y + rows) * height)
            point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            hits.append(SearchHit(image, None, point, box, float(similarity[y, x].clip(-1, 1))))
            similarity[max(y - rows + 1, 0) : y + rows, max(x - columns + 1, 0) : x + columns] = -np.inf
        return hits

    def _images_without(self, exclude: str | None) -> int:
        """Return the number of images of the store without the excluded image."""
        return len(self.store) - (exclude in self.store)

    def _rows_of(self, image: str | None) -> tuple[int, int]:
        """Return the range of rows of an image in the index. An image that is not in the store has an empty range."""
        if image not in self.store:
            return 0, 0
        number = self.store.index(str(image))
        return int(self._starts[number]), int(self._starts[number + 1])

    def search_images(self, query: Floats, k: int = 10, exclude: str | None = None) -> list[tuple[str, float]]:
        """Find the images that are most similar to a descriptor.

        Args:
            query: Mean unit descriptor of an image, [C].
            k: Number of images.
            exclude: Id of an image that is left out.

        Returns:
            Ids and cosine similarities, best first.
        """
        available = self._images_without(exclude)
        self._check_count(k, available, "images")
        count = k + (exclude in self.store)
        similarity, rows = self._images.search(unit(np.asarray(query, np.float32)[None]), count)
        images = [(self.store.ids[i], float(s)) for i, s in zip(rows[0], similarity[0].clip(-1, 1), strict=True)]
        return [(image, value) for image, value in images if image != exclude][:k]

    def _check_count(self, k: int, available: int, what: str) -> None:
        """Raise `UserError` if fewer than `k` hits are available."""
        if not 1 <= k <= available:
            raise UserError(f"k is {k}, but {self.path} has {available} {what} to find. Use 1 to {available}.")

    def _rescored(self, query: Floats, rows: NDArray[np.int64]) -> list[SearchHit]:
        """Compute the exact similarities of candidates.

        Args:
            query: Unit descriptor, [C].
            rows: Rows of the index, [n].

        Returns:
            Hits, best first.
        """
        if not len(rows):
            return []
        hits = []
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers):
            image, tokens = self.store.ids[number], rows[numbers == number] - self._starts[number]
            boxes = token_boxes(self.store.grid(image, self.settings.block), self.store.size(image))[tokens]
            features = self.store.features(self.settings.block, image)
            descriptors = unit(features.descriptors(self.settings.descriptor, self.settings.channels, tokens))
            similarities = (descriptors @ query).clip(-1, 1)
            for token, (x0, y0, x1, y1), similarity in zip(tokens, boxes.tolist(), similarities, strict=True):
                point = ((x0 + x1) / 2, (y0 + y1) / 2)
                hits.append(SearchHit(image, int(token), point, (x0, y0, x1, y1), float(similarity)))
        return sorted(hits, key=lambda hit: -hit.similarity)


def _best_per_image(hits: list[SearchHit]) -> list[SearchHit]:
    """Keep only the best hit of each image, from hits in order of similarity."""
    best: dict[str, SearchHit] = {}
    for hit in hits:
        best.setdefault(hit.image, hit)
    return list(best.values())


def check_index(path: Path) -> dict[str, Any]:
    """Check the files of an index against their checksums.

    Args:
        path: Folder of the index.

    Returns:
        The content of `index.json`, without its checksum.

    Raises:
        UserError: A file is missing or damaged.
    """
    try:
        record: dict[str, Any] = json.loads((path / "index.json").read_text(encoding="utf-8"))
        if record.pop("checksum") != fingerprint(record):
            raise ValueError("index.json disagrees with its checksum")
        for name in FILES:
            if sha256_of(path / name) != record["sha256"][name]:
                raise ValueError(f"{name} disagrees with its checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable index ({reason:.200}). Build it again with `dvc repro -f`.") from None
    return record
