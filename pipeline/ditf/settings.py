"""Validated settings, and the classes that an entry of `params.yaml` names by `type`."""

import importlib
import inspect
import pkgutil
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


def registered(base: type) -> list[str]:
    """Return the names of the built-in subclasses of `base`: the modules of its package `base.registry`."""
    package = importlib.import_module(base.registry)  # type: ignore[attr-defined]
    return [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base"]


def find_type(base: type[T], name: object) -> type[T]:
    """Import the subclass of `base` that `name` stands for.

    Args:
        base: A class with an attribute `registry`, such as `Dataset`.
        name: A built-in type such as "spair", or "package.module.Class" for a class from outside this package.

    Returns:
        The class.

    Raises:
        UserError: No such class can be imported.
    """
    text = str(name)
    if ":" in text:
        raise UserError(f"type: {text!r} has a colon; write {text.replace(':', '.')!r}, which YAML never misreads")
    if "." in text:
        module_name, _, class_name = text.rpartition(".")
    else:
        known, class_name = registered(base), None
        if text.replace("-", "_") not in known:
            raise UserError(f"type: {text!r} is not known; use {', '.join(known)}, or 'package.module.Class'")
        module_name = f"{base.registry}.{text.replace('-', '_')}"  # type: ignore[attr-defined]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"type: {text!r} cannot be imported ({error}); is it on Python's path?") from None
    for candidate in [getattr(module, class_name, None)] if class_name else vars(module).values():
        defined_here = class_name or getattr(candidate, "__module__", None) == module.__name__
        if defined_here and inspect.isclass(candidate) and issubclass(candidate, base):
            return candidate
    raise UserError(f"type: {text!r}: {module_name} has no {class_name or 'class'} that is a {base.__name__}")


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
