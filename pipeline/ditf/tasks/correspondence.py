"""Semantic correspondence: match the keypoints of image pairs, and score the matches with PCK.

Protocol: SPair-71k (Min et al., arXiv 1908.10543).
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field, FiniteFloat, SerializeAsAny

from ditf.data.catalog import Catalog
from ditf.data.tables import read_table, write_table
from ditf.drawing import charts
from ditf.drawing.features import draw_feature_colours
from ditf.drawing.matches import NamedImage, draw_matches
from ditf.features.reader import FeatureReader
from ditf.matching.matchers.base import Matcher
from ditf.matching.pairs import NEAREST, MatchingJob, predict
from ditf.metrics.display import group_value
from ditf.metrics.intervals import write_units
from ditf.metrics.pck import by_coverage, by_pair, by_rule, of_nearest_keypoint, over_alpha, pck
from ditf.metrics.protocols import Protocol, pck_protocol
from ditf.registry import validate_as_type
from ditf.settings import Distinct, Settings
from ditf.tasks.base import DescriptorSettings, DrawingInputs, Metrics, Scores, Task
from ditf.types import Descriptor

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

HEADLINE = 0.1  # preferred alpha of the headline metric
DAGGER = "nearest keypoint"  # name of the rule of PCK†


class PckSettings(Settings):
    """Thresholds of PCK.

    Attributes:
        alphas: A keypoint is correct if its error is at most alpha times the threshold of its pair.
    """

    alphas: Distinct[Annotated[FiniteFloat, Field(gt=0, le=1)]] = Field(default=[0.05, 0.1, 0.15])


def _matcher(value: Any) -> Matcher:
    """Validate a matcher: the name of its type, or a mapping with its type and settings."""
    return validate_as_type(Matcher, {"type": value} if isinstance(value, str) else value)


class MatchingSettings(DescriptorSettings):
    """Settings of the descriptors and the matcher.

    Attributes:
        matcher: Type of a matcher, or a mapping with its type and settings.
    """

    matcher: Annotated[SerializeAsAny[Matcher], BeforeValidator(_matcher)] = NEAREST


class Correspondence(Task):
    """Semantic correspondence by matching descriptors.

    Attributes:
        predict: Settings of the descriptors and the matcher.
        score: Thresholds of PCK.
    """

    version: ClassVar[int] = 2

    predict: MatchingSettings
    score: PckSettings = PckSettings()

    @property
    def headline(self) -> str:
        return f"point@{self.headline_alpha:g}"

    @property
    def headline_alpha(self) -> float:
        """Alpha of the headline metric and of the drawings."""
        return HEADLINE if HEADLINE in self.score.alphas else self.score.alphas[0]

    def protocol(self, catalog: Catalog) -> Protocol:
        return pck_protocol(catalog.threshold)

    def make_predictions(self, store: FeatureReader, catalog: Catalog, folder: Path, client: "Client | None") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        channels = self.predict.discarded(store)
        tables = [
            predict(MatchingJob(store, self.predict.block, descriptor, channels, self.predict.matcher), catalog, client)
            for descriptor in self.predict.descriptors
        ]
        pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")

    def compute_metrics(self, catalog: Catalog, predictions: Path, folder: Path) -> Scores:
        alphas = self.score.alphas
        table = pq.read_table(predictions / "predictions.parquet")
        rules = rescored(table, catalog)
        rows = evaluate(rules, catalog, alphas)
        headline = self.headline_alpha
        write_table(folder / "pck.csv", rows)
        shown = [row for row in rows if row["group"] == "category" and row["alpha"] == headline]
        others = [row for row in shown if row["rule"] != catalog.threshold]
        shown = [row for row in shown if row["rule"] == catalog.threshold]
        categories = [row for row in rows if row["group"] == "category" and row["rule"] == catalog.threshold]
        last = self.predict.descriptors[-1]
        write_table(folder / "categories.csv", [row for row in shown if row["descriptor"] == last])
        write_table(folder / "ablation.csv", [row for row in shown if row["value"] == "All"])
        write_table(folder / "curve.csv", over_alpha(table))
        write_table(folder / "coverage.csv", by_coverage(table, alphas))
        units = list(by_pair(table, alphas))
        for rule, other in rules.items():
            if rule != catalog.threshold:
                units += by_pair(other, [headline], rule)
        write_units(folder, units)
        metrics: Metrics = {}
        for row in categories:
            if row["value"] == "All":
                values = metrics.setdefault(row["descriptor"], {})
                values[f"point@{row['alpha']:g}"] = round(row["point"], 2)
                if row["alpha"] == headline:
                    values[f"image@{row['alpha']:g}"] = round(row["image"], 2)
        for row in others:
            if row["value"] == "All":
                metrics[row["descriptor"]][f"image@{row['alpha']:g} of {row['rule']}"] = round(row["image"], 2)
        return Scores(metrics, {row["value"]: row["point"] for row in shown if row["descriptor"] == last})

    def draw(self, store: FeatureReader, predicted: DrawingInputs, folder: Path) -> None:
        """Draw the best, the median and the worst pair, and features as colours."""
        descriptor = self.predict.descriptors[-1]
        table = pq.read_table(predicted.folder / "predictions.parquet", filters=[("descriptor", "=", descriptor)])
        rows = {name: list(group) for name, group in itertools.groupby(table.to_pylist(), lambda row: row["pair"])}
        ranked = sorted(rows, key=lambda name: np.mean([row["error"] / row["threshold"] for row in rows[name]]))
        chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
        for title, name in chosen.items():
            self.draw_unit(folder / f"matches_{title}.png", predicted, descriptor, name)
        pairs = {row["pair"]: row for row in predicted.catalog.rows("pairs")}
        images = dict.fromkeys(pairs[name][side] for name in chosen.values() for side in ("source", "target"))
        draw_feature_colours(folder / "features.png", predicted.read, store, list(images), self.predict, descriptor)

    def draw_unit(self, path: Path, predicted: DrawingInputs, descriptor: Descriptor, unit: str) -> None:
        """Draw the matches of a pair."""
        filters = [("descriptor", "=", descriptor), ("pair", "=", unit)]
        rows = pq.read_table(predicted.folder / "predictions.parquet", filters=filters).to_pylist()
        pair = next(row for row in predicted.catalog.rows("pairs") if row["pair"] == unit)
        images = [NamedImage(pair[side], predicted.read(pair[side])) for side in ("source", "target")]
        pixels = self.headline_alpha * pair["threshold"]
        rule = f"{self.headline_alpha:g} x {predicted.catalog.threshold} = {pixels:.1f} pixels"
        draw_matches(path, images[0], images[1], rows, self.headline_alpha, f"error at most {rule}")

    def charts(self, tables: Path) -> dict[str, "Figure"]:
        """Return charts of PCK over alpha and coverage by descriptor, and by group for the last descriptor."""
        last, alpha = self.predict.descriptors[-1], f"{self.headline_alpha:g}"
        figures, shown = {}, f"PCK@{alpha} per point, in percent"
        for title, name, x in (("PCK over alpha", "curve", "alpha"), ("PCK over coverage", "coverage", "coverage")):
            curves: dict[str, tuple[list[float], list[float]]] = {}
            for row in read_table(tables / f"{name}.csv"):
                if name == "curve" or row["alpha"] == alpha:
                    xs, ys = curves.setdefault(row["descriptor"], ([], []))
                    xs.append(float(row[x]))
                    ys.append(float(row["point"]))
            label = {"curve": "alpha", "coverage": "the most confident keypoints, in percent"}[name]
            figures[title] = charts.lines(curves, label, "PCK per point, in percent" if name == "curve" else shown)
        rows = [row for row in read_table(tables / "pck.csv") if (row["descriptor"], row["alpha"]) == (last, alpha)]
        named = [
            {**row, "value": group_value(row["group"], row["value"])}
            for row in rows
            if row["rule"] == rows[0]["rule"] and row["value"] != "All"
        ]
        groups = charts.grouped(named, "group", "value", "point", shown)
        return figures | {f"PCK by {name.replace('_', ' ')} ({last})": figure for name, figure in groups.items()}


def evaluate(rules: Mapping[str, pa.Table], catalog: Catalog, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """Compute PCK for every group, rule and subset of keypoints that a catalog has.

    Args:
        rules: Predictions by rule, as `rescored` returns them.
        catalog: Catalog with the subsets.
        alphas: A keypoint is correct if its error is at most alpha times the threshold.

    Returns:
        The rows of `ditf.metrics.pck.pck`, each with its rule. The rule "nearest keypoint" is PCK†. Each subset is a
        separate group with the value "All".
    """
    rows = [{**row, "rule": rule} for rule, table in rules.items() for row in pck(table, alphas)]
    predictions = rules[catalog.threshold]
    for name, members in catalog.subsets().items():
        keys = zip(predictions["pair"].to_pylist(), predictions["keypoint"].to_pylist(), strict=True)
        chosen = predictions.filter(pa.array([key in members for key in keys], pa.bool_()))
        if len(chosen):
            every = [row for row in pck(chosen, alphas) if row["value"] == "All"]
            rows += [{**row, "group": name, "rule": catalog.threshold} for row in every]
    return rows


def rescored(predictions: pa.Table, catalog: Catalog) -> dict[str, pa.Table]:
    """Return predictions with the errors and thresholds of every rule.

    Args:
        predictions: Table with the columns of `ditf.metrics.pck.PREDICTIONS`.
        catalog: Catalog with the threshold rules.

    Returns:
        The tables by the name of the rule: first the data set's own threshold, then PCK†, then its other thresholds.
    """
    tables = {catalog.threshold: predictions, DAGGER: of_nearest_keypoint(predictions)}
    if catalog.has("rules"):
        table = pa.Table.from_pylist(catalog.rows("rules"))
        for rule in pc.unique(table["rule"]).to_pylist():
            units = table.filter(pc.equal(table["rule"], rule))
            place = pc.index_in(predictions["pair"], units["pair"]).to_numpy()
            tables[rule] = by_rule(predictions, *(units[f"unit_{axis}"].to_numpy()[place] for axis in "xy"))
    return tables
