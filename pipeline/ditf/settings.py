"""Validated settings, and the classes that an entry of `params.yaml` names by `type`."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ditf.errors import UserError

T = TypeVar("T")
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A group of settings: unknown keys are errors, and values are read strictly."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _distinct(values: list[T]) -> list[T]:
    if len(set(values)) != len(values):
        raise ValueError("each value may occur only once")
    return values


Distinct = Annotated[list[T], Field(min_length=1), AfterValidator(_distinct)]


def parse(kind: type[S], data: Any, where: str) -> S:
    """Validate `data` as `kind`. Raises `UserError` with a line for each wrong field, which begins with `where`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        lines = dict.fromkeys(_describe(where, item) for item in error.errors())
        raise UserError("\n".join(lines)) from None


def _describe(where: str, error: Mapping[str, Any]) -> str:
    """One error of pydantic's as a line."""
    path = [str(part) for part in error["loc"] if isinstance(part, int) or not any(c in str(part) for c in "[(")]
    start = where if not where or where.endswith(" ") else f"{where}."
    field = start + ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{field}: unknown parameter; remove it or correct its name"
    if error["type"] == "missing":
        return f"{field}: missing; add it"
    return f"{field}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r:.80})"
