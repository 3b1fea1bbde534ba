"""Search over an index of `ditf.retrieval.index`.

What the index finds is compared again by the store's own descriptors, so that similarities are exact and only
the choice of candidates is approximate.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from ditf.errors import UserError
from ditf.features.descriptors import unit
from ditf.features.reader import FeatureReader
from ditf.files import fingerprint, sha256_of
from ditf.retrieval.index import FILES, ROWS, Floats, IndexSettings, described

SHORTLIST = 4  # candidates compared exactly, times k


@dataclass(frozen=True)
class SearchHit:
    """A token that was found. point: its centre; box: x0, y0, x1, y1; both in pixels of the image."""

    image: str
    token: int
    point: tuple[float, float]
    box: tuple[float, float, float, float]
    similarity: float


class FeatureIndex:
    """A built index, with the store that it belongs to.

    Raises `UserError` where `path` holds no index, a damaged one, or one of other features than `store`'s.
    """

    def __init__(self, path: Path | str, store: FeatureReader) -> None:
        self.path, self.store = Path(path), store
        extraction_config = check_index(self.path)
        if extraction_config["store"] != store.digest:
            raise UserError(f"{path}: not of the features that {store.path} now holds; run `dvc repro` to rebuild it")
        self.tokens, self.factory = int(extraction_config["tokens"]), str(extraction_config["factory"])
        kind, block, descriptor = (extraction_config[name] for name in ("kind", "block", "descriptor"))
        self.settings = IndexSettings(kind, block, descriptor, tuple(extraction_config["channels"]))
        self._tokens, self._images = (faiss.read_index(str(self.path / f"{n}.faiss")) for n in ("tokens", "images"))
        self._cells = faiss.try_extract_index_ivf(self._tokens)
        self._rows = pyarrow.dataset.dataset(self.path / "rows.parquet", schema=ROWS)

    def __len__(self) -> int:
        return self.tokens

    def descriptors(self, item: str) -> Floats:
        """The unit descriptors of an image of the store, [n, C], as they are indexed."""
        return described(self.store, self.settings, item)

    def nearest(self, query: Floats, k: int) -> NDArray[np.int64]:
        """Rows of the `k` tokens nearest to `query` [C] by the index alone, best first.

        Where the nearest cells hold fewer, more are read; a graph may know of fewer.
        """
        probed = self._cells.nprobe if self._cells is not None else 0
        try:
            while True:
                found = self._tokens.search(unit(query[None]), k)[1][0]
                found = found[found >= 0]
                if len(found) == k or self._cells is None or self._cells.nprobe >= self._cells.nlist:
                    return np.asarray(found)
                self._cells.nprobe *= 2
        finally:
            if self._cells is not None:
                self._cells.nprobe = probed

    def search(self, query: Floats, k: int = 10, per_image: bool = False) -> list[SearchHit]:
        """The `k` places most similar to a descriptor.

        Args:
            query: [C], of any length.
            k: places requested.
            per_image: keep each image's best place alone.

        Returns:
            Places, best first, with exact cosine similarities.
        """
        query = unit(np.asarray(query, np.float32)[None])[0]
        most, what = (len(self.store), "images") if per_image else (self.tokens, "tokens")
        if not 1 <= k <= most:
            raise self._too_many(k, most, what)
        requested = k
        while True:
            requested = min(SHORTLIST * requested, self.tokens)
            places = self._places(query, self.nearest(query, requested))
            if per_image:  # the first of each image is its best
                best: dict[str, SearchHit] = {}
                for place in places:
                    best.setdefault(place.image, place)
                places = list(best.values())
            if len(places) >= k or requested == self.tokens:
                return places[:k]

    def search_images(self, query: Floats, k: int = 10) -> list[tuple[str, float]]:
        """The `k` images whose mean unit descriptor is most similar to `query` [C], with cosine similarities."""
        if not 1 <= k <= len(self.store):
            raise self._too_many(k, len(self.store), "images")
        similarity, found = self._images.search(unit(np.asarray(query, np.float32)[None]), k)
        return [(self.store.ids[i], float(s)) for i, s in zip(found[0], similarity[0].clip(-1, 1), strict=True)]

    def _too_many(self, k: int, most: int, what: str) -> UserError:
        return UserError(f"k is {k}, but {self.path} indexes {most} {what}; use 1 to {most}")

    def _places(self, query: Floats, rows: NDArray[np.int64]) -> list[SearchHit]:
        """The places of `rows`, by exact similarity, best first."""
        if not len(rows):
            return []
        by_image: dict[str, list[dict[str, Any]]] = {}
        for row in self._rows.take(pa.array(rows)).to_pylist():
            by_image.setdefault(row["image"], []).append(row)
        places = []
        for image, found in by_image.items():
            features, rows_of = self.store.features(self.settings.block, image), [row["token"] for row in found]
            near = unit(features.descriptors(self.settings.descriptor, self.settings.channels, rows_of))
            for row, similarity in zip(found, (near @ query).clip(-1, 1), strict=True):
                x0, y0, x1, y1 = (row[name] for name in ("x0", "y0", "x1", "y1"))
                point = ((x0 + x1) / 2, (y0 + y1) / 2)
                places.append(SearchHit(image, row["token"], point, (x0, y0, x1, y1), float(similarity)))
        return sorted(places, key=lambda place: -place.similarity)


def check_index(path: Path) -> dict[str, Any]:
    """What `index.json` says, once every file of the index agrees with it. Raises `UserError` where one does not."""
    try:
        extraction_config: dict[str, Any] = json.loads((path / "index.json").read_text(encoding="utf-8"))
        if extraction_config.pop("checksum") != fingerprint(extraction_config):
            raise ValueError("index.json disagrees with its checksum")
        for name in FILES:
            if sha256_of(path / name) != extraction_config["sha256"][name]:
                raise ValueError(f"{name} disagrees with its checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable index ({reason:.200}); make it anew with `dvc repro -f`") from None
    return extraction_config
