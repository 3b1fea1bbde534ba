"""Retrieval: index every token of a store, and measure the recall of the index against exact search."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from ditf.data.catalog import Catalog
from ditf.data.tables import read_table, write_table
from ditf.drawing import charts
from ditf.drawing.matches import NamedImage
from ditf.drawing.places import draw_places
from ditf.features.reader import FeatureReader
from ditf.metrics.protocols import INDEX_RECALL, Protocol
from ditf.settings import Settings
from ditf.tasks.base import DescriptorSettings, DrawingInputs, Scores, Task

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

DRAWN, PLACES = 1, 6  # searches drawn, and places of each


class RetrievalSettings(DescriptorSettings):
    """Settings of the indexed descriptors and the index.

    Attributes:
        kind: Kind of index: "flat" (exact), "ivfsq", "ivfpq", "hnsw" or a factory string of FAISS. "auto" means "flat"
            for up to 50,000 tokens and "ivfsq" for more.
    """

    kind: str = Field(default="auto", min_length=1)

    @model_validator(mode="after")
    def _one_descriptor(self) -> "RetrievalSettings":
        if len(self.descriptors) != 1:
            raise ValueError("an index has one descriptor; list one")
        return self


class Retrieval(Task):
    """Index of the tokens of a store, for `ditf search`.

    Attributes:
        predict: Settings of the indexed descriptors and the index.
        score: Not used.
    """

    predict: RetrievalSettings
    score: Settings = Settings()

    @property
    def headline(self) -> str:
        return "recall@1"

    def protocol(self, catalog: Catalog) -> Protocol:
        return INDEX_RECALL

    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        """Build the index, and write its recall against exact search to `recall.json`."""
        from ditf.retrieval.index import IndexSettings, build

        p = self.predict
        settings = IndexSettings(p.kind, p.block, p.descriptors[0], tuple(p.discarded(store)))
        recall = build(store, settings, folder, client)
        (folder / "recall.json").write_text(json.dumps(recall, indent=1) + "\n", encoding="utf-8")

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        recall: dict[str, float] = json.loads((predictions / "recall.json").read_text(encoding="utf-8"))
        write_table(folder / "recall.csv", [{"metric": name, "value": value} for name, value in recall.items()])
        return Scores({self.predict.descriptors[0]: recall}, recall)

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """Return a chart of what the index loses against exact search; none for an index that loses nothing."""
        recall = {row["metric"]: 100 * float(row["value"]) for row in read_table(tables / "recall.csv")}
        if all(value == 100 for value in recall.values()):
            return {}
        return {"Recall against exact search": charts.bars(recall, "exact neighbours that the index finds, in percent")}

    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Draw searches by the middle token of a few images."""
        from ditf.retrieval.search import FeatureIndex

        index = FeatureIndex(predicted.folder, store)
        for number, item in enumerate(store.ids[:: max(1, len(store) // DRAWN)][:DRAWN]):
            (h, w), (width, height) = store.grid(item, self.predict.block), store.size(item)
            query = index.descriptors(item)[h // 2 * w + w // 2]
            exclude = item if len(store) > 1 else None
            places = index.search(query, min(PLACES, max(1, len(store) - 1)), per_image=True, exclude=exclude)
            rows: list[dict[str, Any]] = [{"rank": rank, **vars(place)} for rank, place in enumerate(places, 1)]
            point = np.array([(w // 2 + 0.5) * width / w, (h // 2 + 0.5) * height / h])
            query = NamedImage(item, predicted.read(item))
            draw_places(folder / f"search_{number}.png", query, point.tolist(), rows, predicted.read)
