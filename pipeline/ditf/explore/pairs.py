"""Pairs of a benchmark with their matches, as the explorer shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from ditf.data.catalog import Catalog
from ditf.errors import UserError
from ditf.metrics.pck import PREDICTIONS
from ditf.project.paths import CATALOGS
from ditf.tasks.correspondence import Correspondence
from ditf.types import Descriptor

Json = dict[str, Any]


class PairSelection(BaseModel):
    """Which pairs are listed, and in which order. An empty text does not filter."""

    task: str = Field(description="A task of type correspondence.")
    descriptor: Descriptor = Field(description="Descriptor of the predictions.")
    other: str = Field("", description="Another descriptor or task/descriptor to compare with.")
    source: str = Field("", description="Id of the source image.")
    target: str = Field("", description="Id of the target image.")
    category: str = Field("", description="Category of the pair.")
    difficulty: str = Field("", description="A column and its value, such as occlusion=1.")
    correct: Literal["", "all", "some", "none"] = Field("", description="How many points are correct.")
    sort: Literal["error", "confidence", "difference"] = Field("error", description="What pairs are sorted by.")
    descending: bool = Field(True, description="Whether the largest value comes first.")
    offset: int = Field(0, ge=0, description="Number of pairs to skip.")
    limit: int = Field(24, ge=1, le=200, description="Largest number of pairs.")

    def admits(self, pair: Json) -> bool:
        """Return whether a pair passes the filters."""
        key, _, value = self.difficulty.partition("=")
        amount = "all" if pair["correct"] == 1 else "none" if pair["correct"] == 0 else "some"
        return (
            self.source in ("", pair["source"])
            and self.target in ("", pair["target"])
            and self.category in ("", pair["category"])
            and self.correct in ("", amount)
            and (not self.difficulty or str(pair["difficulty"].get(key)) == value)
        )

    def select(self, pairs: Sequence[Json], others: Sequence[Json] | None) -> Json:
        """Filter and sort pairs.

        Args:
            pairs: Pairs of `read_pairs`.
            others: Pairs of another result, which are compared; None for no comparison.

        Returns:
            All categories and difficulties, the number of pairs that pass the filters, and these pairs. After a
            comparison they also have `other`, the pair of the other result, and `difference`: the other's mean error
            minus their own.

        Raises:
            UserError: The pairs are sorted by difference without another result.
        """
        chosen = [pair for pair in pairs if self.admits(pair)]
        if others is not None:
            named = {pair["pair"]: pair for pair in others}
            chosen = [
                pair | {"other": named[pair["pair"]], "difference": named[pair["pair"]]["error"] - pair["error"]}
                for pair in chosen
                if pair["pair"] in named
            ]
        elif self.sort == "difference":
            raise UserError("sort: difference needs `other`. Name a descriptor or task/descriptor to compare with.")
        sign = -1 if self.descending else 1
        chosen.sort(key=lambda pair: (sign * pair[self.sort], pair["pair"]))
        return {
            "total": len(chosen),
            "categories": sorted({pair["category"] for pair in pairs}),
            "difficulties": sorted({f"{key}={value}" for pair in pairs for key, value in pair["difficulty"].items()}),
            "pairs": chosen[self.offset : self.offset + self.limit],
        }


def read_pairs(path: Path, settings: Correspondence, descriptor: str) -> list[Json]:
    """Read the predictions of a descriptor, grouped by pair.

    Args:
        path: Table of predictions.
        settings: The task that made them.
        descriptor: The descriptor.

    Returns:
        For each pair its name, images, category, difficulty, points, largest allowed error in pixels, mean error in
        units of that error, mean confidence, and the fraction of correct points.
    """
    catalog = Catalog(CATALOGS / settings.dataset)
    images = {row["pair"]: row for row in catalog.rows("pairs")}
    alpha = settings.headline_alpha
    pairs: dict[str, Json] = {}
    try:
        rows = pq.read_table(path, filters=[("descriptor", "=", descriptor)]).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable table ({error}). Run `dvc repro`.") from None
    for row in rows:
        name, allowed = row["pair"], alpha * row["threshold"]
        pair = pairs.setdefault(
            name,
            {
                "pair": name,
                "source": images[name]["source"],
                "target": images[name]["target"],
                "category": row["category"],
                "difficulty": {key: row[key] for key in row if key not in PREDICTIONS.names},
                "alpha": alpha,
                "allowed": allowed,
                "points": [],
            },
        )
        pair["points"].append(
            {
                "keypoint": row["keypoint"],
                "source": [row["source_x"], row["source_y"]],
                "true": [row["target_x"], row["target_y"]],
                "match": [row["predicted_x"], row["predicted_y"]],
                "similarity": row["similarity"],
                "confidence": row["confidence"],
                "error": row["error"],
                "correct": row["error"] <= allowed,
            }
        )
    for pair in pairs.values():
        points, allowed = pair["points"], pair["allowed"]
        pair["error"] = _mean([point["error"] / allowed for point in points])
        pair["confidence"] = _mean([point["confidence"] for point in points])
        pair["correct"] = _mean([float(point["correct"]) for point in points])
    return list(pairs.values())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
