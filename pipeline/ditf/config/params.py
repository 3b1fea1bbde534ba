"""The parameters of a project, `params.yaml`, validated completely before anything runs."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import InitErrorDetails

from ditf.backbones.source import ModelSettings
from ditf.config.references import reference_problems
from ditf.config.schema import FeaturesEntry, SampleSettings, Sweep
from ditf.config.yaml_file import read_yaml
from ditf.datasets.base import Dataset
from ditf.errors import UserError
from ditf.features.settings import FusionSettings
from ditf.registry import of_type
from ditf.settings import Entries, Settings, below, error_lines, invalid, problem, problems_of
from ditf.tasks.base import Task

FILE = Path("params.yaml")
NAME = r"[A-Za-z0-9][\w-]*"  # of an entry; it is part of file names and of DVC's dotted paths


def _check_workers(value: Any) -> Any:
    if value == "none" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024):
        return value
    if isinstance(value, str) and value.startswith(("tcp://", "tls://")) and len(value) > len("tcp://"):
        return value
    raise invalid(problem((), "use none, a number of workers, or the address of a scheduler: tcp://10.0.0.1:8786"))


class Params(Settings):
    """All of `params.yaml`.

    Entries name entries of earlier sections. Each is validated by the class that its `type` names.

    Attributes:
        sample: Settings of the sample data.
        workers: none to work in each stage's own process, a number of worker processes, or the address of a Dask
            scheduler such as tcp://10.0.0.1:8786.
        models: Models.
        datasets: Data sets.
        features: Features of a data set, computed by a model.
        fusions: Pairs of features that are used as one.
        tasks: Evaluations of features.
        sweeps: Searches for the best timestep, block and ensemble size.
    """

    sample: SampleSettings
    workers: Annotated[Any, AfterValidator(_check_workers)]
    models: dict[str, ModelSettings]
    datasets: dict[str, Annotated[Dataset, of_type(Dataset)]]
    features: dict[str, FeaturesEntry]
    fusions: dict[str, FusionSettings] = Field(default={}, validate_default=True)
    tasks: dict[str, Annotated[Task, of_type(Task)]]
    sweeps: dict[str, Sweep] = Field(default={}, validate_default=True)

    @field_validator("models", "datasets", "features", "fusions", "tasks", "sweeps", mode="wrap")
    @classmethod
    def _parse_entries(cls, section: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Validate each entry by itself, so that a wrong one does not hide errors in others."""
        if not isinstance(section, dict):
            raise invalid(problem((), "not a mapping of entries. Write {} for none."))
        entries = info.context
        assert isinstance(entries, Entries)
        valid = entries.valid.setdefault(str(info.field_name), {})
        wrong = entries.wrong.setdefault(str(info.field_name), set())
        problems: list[InitErrorDetails] = []
        for name, entry in section.items():
            try:
                _check_name(name)
                parsed = handler({name: entry})[name]
                if mismatches := reference_problems(name, parsed, entries):
                    raise invalid(*below(mismatches, name))
                valid[name] = parsed
            except ValidationError as error:
                problems += problems_of(error)
                wrong.add(name)
        if problems:
            raise invalid(*problems)
        return valid

    def sources_of(self, features: str) -> list[str]:
        """Return the sources of the models behind features.

        Args:
            features: Entry of `features` or `fusions`.
        """
        fusion = self.fusions.get(features)
        names = [fusion.first.features, fusion.second.features] if fusion else [features]
        return [self.models[self.features[name].model].source for name in names]


def _check_name(name: Any) -> None:
    """Raise an error unless a value can be the name of an entry."""
    if isinstance(name, (int, float)):
        raise invalid(problem((str(name),), f"a name that looks like a number needs quotes. Write '{name}'."))
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise invalid(problem((str(name),), "a name consists of letters, digits, - and _, and - or _ is not first."))


def load_params(path: Path = FILE) -> Params:
    """Read and validate a parameter file.

    Args:
        path: The file.

    Returns:
        The parameters.

    Raises:
        UserError: With one line for each wrong field.
    """
    return validate(read_yaml(path), str(path))


def validate(data: Any, where: str = str(FILE)) -> Params:
    """Validate plain values as parameters.

    Args:
        data: The content of a parameter file.
        where: The name of the file, for errors.

    Returns:
        The parameters.

    Raises:
        UserError: With one line for each wrong field.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: not a mapping of parameters. `ditf init` writes an example.")
    try:
        return Params.model_validate(data, context=Entries())
    except ValidationError as error:
        raise UserError("\n".join(error_lines(error, data, f"{where}: "))) from None
