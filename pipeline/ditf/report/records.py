"""Records of results that can be published: one JSON file per task, without paths or names of users."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat, JsonValue, model_validator

from ditf.config.params import Params
from ditf.errors import UserError
from ditf.features.store import FeatureStore
from ditf.metrics.display import in_percent
from ditf.metrics.intervals import interval, read_units
from ditf.project.paths import FEATURES, RESULTS
from ditf.project.presets import remarks_of
from ditf.project.runs import recorded_run
from ditf.provenance import Hardware, commit, hardware
from ditf.report.benchmark import Benchmark, read_benchmark
from ditf.report.leaderboard import settings
from ditf.settings import Settings, parse

FORMAT: Literal["ditf-result-2"] = "ditf-result-2"
COMMIT_DIGITS = 40  # of a git commit, which is the digest of a model on the Hub
# An absolute path, a path in a home folder, or the rest of a URL, at the start of a text or after a separator.
PLACE = re.compile(r"(?:(?<=[\s:=,;'\"(\[])|^)(?:~[\w.-]*[\\/]|/|\\|[A-Za-z]:[\\/])[^\s'\")\],;]+")


def without_places(value: Any) -> Any:
    """Replace paths in plain values by their last part.

    Args:
        value: Text, number, list or mapping. A relative path is replaced if the file or folder exists.
    """
    if isinstance(value, dict):
        return {without_places(key): without_places(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if PLACE.match(value) or _is_relative_path(value):
        return _last_part(value)  # a whole path, which may contain spaces
    home = str(Path.home())
    return PLACE.sub(lambda place: _last_part(place[0]), value.replace(home, "~") if len(home) > 1 else value)


def _is_relative_path(text: str) -> bool:
    try:
        return "/" in text and Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _last_part(path: str) -> str:
    return re.split(r"[\\/~]", path.rstrip("\\/"))[-1]


def _check_places(value: Any) -> Any:
    """Raise `ValueError` if a text among plain values contains an absolute path."""
    for text in _texts(value):
        if place := PLACE.search(text):
            raise ValueError(f"contains the path {place[0]!r}. Records contain no paths. Export the result again")
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


Text = Annotated[str, Field(max_length=1000), AfterValidator(_check_places)]
Values = Annotated[dict[str, JsonValue], AfterValidator(_check_places)]


class MetricRecord(Settings):
    """A metric of a result.

    Attributes:
        value: The metric, in percent.
        low: Lower bound of the 95 % bootstrap interval, in percent; null if it is not known.
        high: Upper bound of the interval.
    """

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> "MetricRecord":
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high: give both, or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low is {self.low}, which is above high, {self.high}")
        return self


class DataRecord(Settings):
    """The data that a result was measured on.

    Attributes:
        type: Type of the data set.
        split: Split of the data set; empty if the data set has none.
        official: Official split, such as "SPair-71k test", if the annotations are complete; empty for other data.
        images: Number of images.
        units: Number of pairs, sequences or images that were scored; null if it is not known.
        digest: Hash of the images and annotations. Equal digests mean equal data.
    """

    type: Text
    split: Text
    official: Text
    images: int = Field(ge=0)
    units: int | None = Field(default=None, ge=0)
    digest: str = Field(pattern=r"^[0-9a-f]{32}$")


class ProtocolRecord(Settings):
    """The protocol of a result.

    Attributes:
        name: Name of the protocol, such as "pck-box".
        rules: The rules of the protocol.
    """

    name: Text
    rules: Text


class ModelRecord(Settings):
    """A model behind a result.

    Attributes:
        family: Type of the model.
        source: Hub id, name of the local folder, "miniature" or "tiny-SEED".
        digest: Commit of a Hub id, or hash of a folder's files.
        extraction: Settings of the extraction, with the versions of the libraries that ran the model.
    """

    family: Text
    source: Text
    digest: Text
    extraction: Values


class HardwareRecord(Hardware):
    """A machine.

    Attributes:
        role: "extraction" if the features were extracted on this machine. "export" if that machine is not known and
            this is the one that exported the result.
    """

    role: Literal["extraction", "export"]


class ResultRecord(Settings):
    """The results of a task, as `ditf export results` writes them.

    Attributes:
        format: Name and version of this format.
        name: Name of the task.
        source: Who measured the result, such as a paper or a group; empty if not stated.
        type: Type of the task.
        headline: Metric that ranks results.
        protocol: The scoring rules.
        data: The data.
        metrics: Metrics by descriptor and name.
        row: Short settings for tables: model, block, timestep, ensemble size and image size.
        remarks: Settings of a preset that no source publishes, or that differ from the published ones.
        models: The models: one, or two for a fusion.
        features: Hash of the features that the task read.
        predict: Settings of the predictions, with the discarded channels.
        score: Settings of the metrics.
        versions: Versions of libraries that made the predictions.
        commit: Commit of the project's repository, followed by "+" if files differed from it.
        hardware: The machine.
    """

    format: Literal["ditf-result-2"]
    name: Text
    source: str = Field(default="", max_length=200)
    type: Text
    headline: Text
    protocol: ProtocolRecord
    data: DataRecord
    metrics: dict[Text, dict[Text, MetricRecord]] = Field(min_length=1)
    row: Values
    remarks: list[Text] = Field(default=[])
    models: list[ModelRecord] = Field(min_length=1)
    features: Text
    predict: Values
    score: Values
    versions: dict[Text, Text]
    commit: Text
    hardware: HardwareRecord

    @property
    def benchmark(self) -> Benchmark:
        """The protocol and the data."""
        protocol, data = self.protocol, self.data
        return Benchmark(
            protocol=protocol.name,
            rules=protocol.rules,
            dataset=data.type,
            split=data.split,
            official=data.official,
            images=data.images,
            digest=data.digest,
        )


def read_record(path: Path) -> ResultRecord:
    """Read and validate a record.

    Args:
        path: JSON file that `ditf export results` wrote.

    Raises:
        UserError: The file cannot be read, or it is not a valid record. Each wrong field has a line.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give a file of `ditf export results`.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}). Export the result again.") from None
    return parse(ResultRecord, document, f"{path}: ")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def text_of(record: ResultRecord) -> str:
    """Return the content of a record's JSON file."""
    return json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def scored_tasks(params: Params) -> list[str]:
    """Return the names of the tasks that have metrics."""
    paths = {name: RESULTS / name / "metrics.json" for name in params.tasks}
    return [name for name, path in paths.items() if path.exists() and json.loads(path.read_text(encoding="utf-8"))]


def record_of(params: Params, name: str, source: str = "") -> ResultRecord:
    """Return the record of a task's results.

    Args:
        params: Parameters of the project.
        name: A task that has metrics.
        source: Who measured the result.

    Raises:
        UserError: The task's files are not there, or a value in them cannot be published.
    """
    task, folder = params.tasks[name], RESULTS / name
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    units, benchmark = read_units(folder / "tables"), read_benchmark(folder / "tables")
    metrics: dict[str, dict[str, Any]] = {}
    for descriptor, values in json.loads((folder / "metrics.json").read_text(encoding="utf-8")).items():
        for metric, value in sorted(values.items(), key=lambda item: item[0] != task.headline):
            sums = units.get(descriptor, {}).get(metric)
            low, high = (interval(sums) if sums else None) or (None, None)
            bounds = {"low": low, "high": high}
            shown = {"value": value} | {key: bound for key, bound in bounds.items() if bound is not None}
            metrics.setdefault(descriptor, {})[metric] = {
                key: round(in_percent(metric, float(number)), 4) for key, number in shown.items()
            }
    counts = {len(sums.units) for by_metric in units.values() for sums in by_metric.values()}
    extractions = _extractions(params, task.features, run)
    predict_run = recorded_run("predict", name)
    document = {
        "format": FORMAT,
        "name": name,
        "source": source,
        "type": task.type,
        "headline": task.headline,
        "protocol": {"name": benchmark.protocol, "rules": benchmark.rules},
        "data": {
            "type": benchmark.dataset,
            "split": benchmark.split,
            "official": benchmark.official,
            "images": benchmark.images,
            "units": max(counts) if counts else None,
            "digest": benchmark.digest,
        },
        "metrics": metrics,
        "row": settings(params, task),
        "remarks": remarks_of(params).get(name, []),
        "models": [_model(extraction) for extraction in extractions],
        "features": run["store"],
        "predict": run["predict"] | {"discarded": run["discarded"]},
        "score": task.score.model_dump(mode="json"),
        "versions": run["versions"],
        "commit": predict_run.get("commit") or commit(),
        "hardware": _hardware(extractions),
    }
    published = without_places({key: value for key, value in document.items() if key != "source"})
    return parse(ResultRecord, published | {"source": source}, f"{folder}: ")


def _extractions(params: Params, features: str, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how the features of a task were extracted: `entry`, `store`, `extraction_config` and `source` of each.

    Args:
        params: Parameters of the project.
        features: An entry of `features` or `fusions`.
        run: Content of the task's `run.json`.
    """
    fusion = params.fusions.get(features)
    if fusion is None:
        return [{"entry": features} | {key: run[key] for key in ("store", "extraction_config", "source")}]
    stores = {half.features: FeatureStore(FEATURES / half.features) for half in (fusion.first, fusion.second)}
    return [
        {"entry": entry, "store": store.digest}
        | {key: store.attributes[key] for key in ("extraction_config", "source")}
        for entry, store in stores.items()
    ]


def _model(extraction: dict[str, Any]) -> dict[str, Any]:
    """Return the model of an extraction."""
    values = dict(extraction["extraction_config"])
    identity = dict(values.pop("model"))
    family, digest, source = identity.pop("family"), identity.pop("digest"), extraction["source"]
    if len(digest) != COMMIT_DIGITS:
        source = _last_part(source)  # a folder
    return {"family": family, "source": source, "digest": digest, "extraction": values | identity}


def _hardware(extractions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the machine that extracted the features if it is known, otherwise this machine."""
    for extraction in extractions:
        recorded = recorded_run("features", extraction["entry"])
        if recorded.get("hardware") and recorded.get("store") == extraction["store"]:
            return {"role": "extraction"} | recorded["hardware"]
    return {"role": "export"} | hardware().model_dump()
