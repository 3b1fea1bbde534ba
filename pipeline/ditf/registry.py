"""The classes that an entry of `params.yaml` names by `type`: backbones, data sets, tasks and matchers."""

import importlib
import inspect
import pkgutil
from typing import TypeVar

from ditf.errors import UserError, suggest

T = TypeVar("T")


def registered(base: type) -> list[str]:
    """Return the names of the built-in subclasses of a class: the modules of the package `base.registry`."""
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
        if inspect.isclass(candidate) and issubclass(candidate, base):
            return candidate
    expected = class_name or "class"
    raise UserError(f"type: {text!r}: {module_name} has no {expected} that is a {base.__name__}")


def code_of(kind: type) -> str:
    """Return the source of the module that defines a class from outside this package.

    The source is part of the fingerprint of what such a class makes, because this package's version says nothing
    about it.

    Args:
        kind: Any class.

    Returns:
        The source code, or an empty string for a class of this package.
    """
    if kind.__module__.split(".")[0] == "ditf":
        return ""
    return inspect.getsource(inspect.getmodule(kind) or kind)
