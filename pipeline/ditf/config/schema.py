"""Entries of `params.yaml` for sample data, features and sweeps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ditf.backbones.base import Backbone
from ditf.config.references import descriptor_problems
from ditf.features.settings import ExtractionSettings, Seed
from ditf.registry import validate_as_type
from ditf.settings import (
    FOLLOWS,
    Distinct,
    Entries,
    Location,
    Settings,
    below,
    entry_of,
    invalid,
    problem,
    problems_of,
)
from ditf.tasks.base import Task
from ditf.types import Rule

EnsembleSize = Annotated[int, Field(ge=1, le=1024)]


class SampleSettings(Settings):
    """Settings of the sample data.

    Attributes:
        seed: Seed of the random sample data.
    """

    seed: Seed


class FeaturesEntry(ExtractionSettings):
    """An entry of `features`: a data set seen through a model.

    In the file, the settings of the model's family stand beside these ones.

    Attributes:
        dataset: Entry of `datasets`.
        model: Entry of `models`.
        rule: Which sides of an image become `img_size`. auto is the rule of the data set's benchmark.
        backbone: Settings of the model's family, such as blocks and timestep.
    """

    dataset: Annotated[str, entry_of("datasets")]
    model: Annotated[str, entry_of("models")]
    rule: Literal["auto"] | Rule = "auto"  # type: ignore[assignment]  # wider than the rules of an extraction
    backbone: Backbone

    @classmethod
    def parameters(cls, context: Any) -> list[str]:
        """Return the keys of an entry, including the settings of all families."""
        models = context.valid.get("models", {}) if isinstance(context, Entries) else {}
        names = [*cls.model_fields, *(name for model in models.values() for name in model.backbone.model_fields)]
        return [name for name in dict.fromkeys(names) if name != "backbone"]

    @model_validator(mode="before")
    @classmethod
    def _gather_backbone(cls, data: Any, info: ValidationInfo) -> Any:
        """Move the settings of the model's family into `backbone`."""
        if not isinstance(data, dict) or not isinstance(info.context, Entries):
            return data
        model = info.context.valid.get("models", {}).get(str(data.get("model")))
        names = model.backbone.model_fields if model else data.keys() - cls.model_fields.keys()
        entry = {key: value for key, value in data.items() if key not in names}
        return entry | {"backbone": {key: value for key, value in data.items() if key in names}}

    @field_validator("backbone", mode="wrap")
    @classmethod
    def _parse_backbone(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Validate the settings of the model's family."""
        if isinstance(value, Backbone):
            return value
        if "model" not in info.data or not isinstance(info.context, Entries):
            raise PydanticCustomError(FOLLOWS, "the model is not known")
        return info.context.find(info.data["model"], "models").backbone.model_validate(value)


class SweepSettings(Settings):
    """Settings of an entry of `sweeps`. It also has the settings of features.

    Attributes:
        dataset: Entry of `datasets`.
        model: Entry of `models`.
        subset: Number of pairs per category or of sequences, or a list of their names.
        seed: Seed of the noise and of the choice of the subset.
        ensemble_sizes: Numbers of noise samples to try. Each uses the first samples of the largest.
    """

    dataset: Annotated[str, entry_of("datasets")]
    model: Annotated[str, entry_of("models")]
    subset: Annotated[int, Field(ge=1)] | Distinct[str] = 20
    seed: Seed = 0
    ensemble_sizes: Distinct[EnsembleSize] = Field(default=[1, 2, 4, 8])


class Sweep(Settings):
    """An entry of `sweeps`: features at several timesteps, and the task that scores them.

    In the file, all settings stand side by side, with `timesteps` as a list.

    Attributes:
        settings: Settings of the sweep itself.
        features: Settings of the features by timestep, with the largest ensemble.
        task: Task that scores each block of the features.
    """

    settings: SweepSettings
    features: dict[int, FeaturesEntry]
    task: Task

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any, info: ValidationInfo) -> Any:
        """Make the settings of features at each timestep, and the task that reads them."""
        if not isinstance(data, dict) or not isinstance(info.context, Entries):
            return data
        values = {key: data[key] for key in SweepSettings.model_fields if key in data}
        settings = SweepSettings.model_validate(values, context=info.context)
        family = info.context.find(settings.model, "models").backbone
        for single in ("ensemble_size", "timestep"):
            if single in data:
                raise invalid(problem((single,), f"a sweep has `{single}s`, a list."))
        has_timestep = "timestep" in family.model_fields
        timesteps = data.get("timesteps", [] if has_timestep else [0])
        if not isinstance(timesteps, list) or not timesteps or len({*map(str, timesteps)}) != len(timesteps):
            raise invalid(problem(("timesteps",), "give a list of distinct timesteps, such as [100, 260]."))
        others = ("subset", "ensemble_sizes", "timesteps", "task")
        common = {key: value for key, value in data.items() if key not in others}
        common["ensemble_size"] = max(settings.ensemble_sizes)
        features = {}
        for number, timestep in enumerate(timesteps):
            entry = common | ({"timestep": timestep} if has_timestep else {})
            try:
                features[timestep] = FeaturesEntry.model_validate(entry, context=info.context)
            except ValidationError as error:
                problems = problems_of(error)
                for item in problems:
                    if item["loc"][-1] == "timestep":
                        item["loc"] = ("timesteps", number)
                raise invalid(*problems) from None
        backbone = features[timesteps[0]].backbone
        return {"settings": settings, "features": features, "task": _sweep_task(data.get("task"), settings, backbone)}


def _sweep_task(entry: Any, settings: SweepSettings, backbone: Backbone) -> Task:
    """Validate the task of a sweep, whose data set, features and block the sweep chooses."""
    if not isinstance(entry, dict):
        raise invalid(problem(("task",), "missing. Give its type, predict and score."))
    predict = entry.get("predict", {})
    if not isinstance(predict, dict):
        raise invalid(problem(("task", "predict"), f"should be a mapping of settings, not {predict!r:.80}"))
    chosen: list[Location] = [("task", key) for key in ("dataset", "features") if key in entry]
    if "block" in predict:
        chosen.append(("task", "predict", "block"))
    if chosen:
        raise invalid(*(problem(location, "the sweep chooses it. Remove it.") for location in chosen))
    features = {"dataset": settings.dataset, "features": "sweep"}
    complete = {"score": {}, **entry, **features, "predict": {**predict, "block": backbone.blocks[0]}}
    try:
        task = validate_as_type(Task, complete)
    except ValidationError as error:
        raise invalid(*below(problems_of(error), "task")) from None
    if problems := list(descriptor_problems(task, backbone.descriptors, f"models.{settings.model}")):
        raise invalid(*below(problems, "task"))
    return task
