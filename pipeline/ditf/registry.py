"""The classes that an entry of `params.yaml` names by `type`: backbones, data sets, tasks and matchers."""

import hashlib
import importlib
import inspect
import pkgutil
from typing import Any, TypeVar

from pydantic import BeforeValidator, ValidationInfo

from ditf.errors import UserError, suggest
from ditf.settings import Settings, invalid, problem

T = TypeVar("T")
S = TypeVar("S", bound=Settings)


def registered(base: type) -> list[str]:
    """Return the names of the built-in subclasses of a class: the modules of the package `base.registry`."""
    package = importlib.import_module(base.registry)  # type: ignore[attr-defined]
    return [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base"]


def find_type(base: type[T], name: object) -> type[T]:
    """Import the subclass of `base` that `name` stands for.

    Args:
        base: A class with an attribute `registry`, such as `Dataset`.
        name: A built-in type such as "spair", or "package.module.Class" for a class from outside this package.
            "package.module:Class" is accepted as well.

    Returns:
        The class.

    Raises:
        UserError: No such class can be imported.
    """
    text = str(name).replace(":", ".")
    if "." in text:
        module_name, _, class_name = text.rpartition(".")
    else:
        known, class_name = registered(base), ""
        module = text.replace("-", "_")
        if module not in known:
            choices = [name.replace("_", "-") for name in known]
            raise UserError(f"type: {text!r} is not known. {suggest(text, choices)}")
        module_name = f"{base.registry}.{module}"  # type: ignore[attr-defined]
    try:
        candidates = vars(importlib.import_module(module_name))
    except ImportError as error:
        raise UserError(f"type: {text!r} cannot be imported ({error}). Is it on Python's path?") from None
    if class_name:
        classes = [candidates.get(class_name)]
    else:
        classes = [value for value in candidates.values() if getattr(value, "__module__", None) == module_name]
    for candidate in classes:
        if inspect.isclass(candidate) and issubclass(candidate, base) and not inspect.isabstract(candidate):
            return candidate
        if class_name and inspect.isclass(candidate) and inspect.isabstract(candidate):
            methods = ", ".join(sorted(getattr(candidate, "__abstractmethods__", ())))
            raise UserError(f"type: {text!r} does not implement {methods}. Add what is missing.")
    expected = class_name or "class"
    raise UserError(f"type: {text!r}: {module_name} has no {expected} that is a {base.__name__}")


def of_type(base: type[S]) -> BeforeValidator:
    """Return a validator of a mapping whose `type` names a subclass of `base`.

    Example: `Annotated[Dataset, of_type(Dataset)]` for a field of settings.

    Args:
        base: A class of settings with an attribute `registry`.

    Returns:
        The validator, for `Annotated`. It validates the mapping as the subclass.
    """

    def validate(data: Any, info: ValidationInfo) -> Any:
        return validate_as_type(base, data, info.context)

    return BeforeValidator(validate)


def validate_as_type(base: type[S], data: Any, context: Any = None) -> S:
    """Validate a mapping as the subclass of `base` that its `type` names.

    Args:
        base: A class of settings with an attribute `registry`.
        data: The mapping, or settings that are returned as they are.
        context: The context of the validation, such as `Entries`.

    Returns:
        The settings.

    Raises:
        ValidationError: A field is wrong, or `type` names no class.
    """
    if isinstance(data, base):
        return data
    if not isinstance(data, dict):
        raise invalid(problem((), f"should be a mapping of settings, not {data!r:.80}"))
    if "type" not in data:
        raise invalid(problem(("type",), "missing. Add it."))
    try:
        kind = find_type(base, data["type"])
    except UserError as error:
        raise invalid(problem(("type",), str(error).removeprefix("type: "))) from None
    return kind.model_validate(data, context=context)


def version_of(kind: type) -> str:
    """Return what identifies the results of a class: the versions of it and its bases, such as "1.2".

    A class from outside this package is identified by its source as well, because its author may not raise a version.

    Args:
        kind: A class with an attribute `version`, such as a task.

    Returns:
        Equal text for equal code.
    """
    bases = list(reversed(kind.__mro__))
    versions = [str(vars(base)["version"]) for base in bases if "version" in vars(base)]
    outside = {inspect.getmodule(base) for base in bases if _is_outside(base)}
    sources = sorted(inspect.getsource(module) for module in outside if module is not None)
    return ".".join(versions) + (f"+{hashlib.sha256(''.join(sources).encode()).hexdigest()[:16]}" if sources else "")


def _is_outside(kind: type) -> bool:
    """Return whether a class was written for this pipeline, but outside its package."""
    return hasattr(kind, "registry") and kind.__module__.split(".")[0] != "ditf"
