"""Validated settings, and the classes that an entry of `params.yaml` names by `type`."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ditf.errors import UserError

T = TypeVar("T")
S = TypeVar("S", bound="Section")


class Section(BaseModel):
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


def registered(base: type) -> list[str]:
    """The names of the registered subclasses of `base`: the modules of its package, of which each defines one."""
    return [m.name for m in pkgutil.iter_modules(importlib.import_module(base.__module__).__path__) if not m.ispkg]


def find_type(base: type[T], name: object) -> type[T]:
    """The subclass of `base` that `name` stands for.

    Args:
        base: such as `Dataset`.
        name: a registered one, such as "spair"; or "package.module:Class" for a class from elsewhere.

    Raises:
        UserError: nothing of that name can be imported.
    """
    package, known = base.__module__, registered(base)
    module, _, attribute = str(name).partition(":")
    module = module.replace("-", "_") if not attribute else module
    if not attribute and module not in known:
        raise UserError(f"type: {name!r} is not known; use {', '.join(known)}, or 'package.module:Class'")
    try:
        found = importlib.import_module(module if attribute else f"{package}.{module}")
    except ImportError as error:
        raise UserError(f"type: {name!r} cannot be imported ({error}); is it on Python's path?") from None
    classes = [getattr(found, attribute, None)] if attribute else vars(found).values()
    for candidate in classes:
        own = attribute or getattr(candidate, "__module__", None) == found.__name__
        if inspect.isclass(candidate) and issubclass(candidate, base) and own:
            return candidate
    raise UserError(f"type: {name!r}: {module} has no {attribute or 'class'} that is a {base.__name__}")


def code_of(kind: type) -> str:
    """The source of the module that defines `kind`, where it is not this package's; else nothing.

    It is part of a store's fingerprint, since this package's version does not say what such a class computes.
    """
    if kind.__module__.split(".")[0] == "ditf":
        return ""
    return inspect.getsource(inspect.getmodule(kind) or kind)


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
