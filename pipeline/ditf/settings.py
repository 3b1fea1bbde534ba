"""Settings that pydantic validates, and errors about them in one line per wrong field."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from ditf.errors import UserError, suggest

T = TypeVar("T")
S = TypeVar("S", bound="Settings")
Location = tuple[int | str, ...]

# Types of errors of our own; pydantic has others, such as "missing".
WRONG = "wrong"
FOLLOWS = "follows"  # caused by another error of the file, and therefore not reported


class Settings(BaseModel):
    """A group of settings: unknown keys are errors, and values are read strictly."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def parameters(cls, context: Any) -> list[str]:
        """Return the keys that these settings may have.

        Args:
            context: The context of the validation, such as `Entries`.

        Returns:
            The names.
        """
        return list(cls.model_fields)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_parameters(cls, data: Any, handler: ModelWrapValidatorHandler[S], info: ValidationInfo) -> S:
        """Name the parameter that an unknown key probably stands for."""
        try:
            return handler(data)
        except ValidationError as error:
            details = error.errors()
        problems, meant = [], set()
        for detail in details:
            if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
                names = [name for name in cls.parameters(info.context) if name not in data]
                advice = suggest(detail["loc"][0], names) if names else "Remove it."
                meant |= {name for name in names if advice == f"Did you mean {name}?"}
                problems.append(problem(detail["loc"], f"unknown parameter. {advice}"))
            else:
                problems.append(_raised_again(detail))
        # A parameter that is missing because its name is misspelt is reported once.
        missing = [p for p in problems if p["type"].type == "missing" and p["loc"][-1] in meant]  # type: ignore[union-attr]
        raise ValidationError.from_exception_data(cls.__name__, [p for p in problems if p not in missing])


@dataclass
class Entries:
    """The entries of `params.yaml` that were validated so far: the context in which others are validated.

    Attributes:
        valid: Valid entries by section and name. A section that is wrong as a whole is not there.
        wrong: Names of wrong entries by section.
    """

    valid: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: dict[str, set[str]] = field(default_factory=dict)

    def find(self, name: object, *sections: str) -> Any:
        """Return an entry.

        Args:
            name: Its name.
            sections: The sections that may have it.

        Raises:
            PydanticCustomError: There is no such entry, or it is wrong itself.
        """
        for section in sections:
            if section not in self.valid:
                raise PydanticCustomError(FOLLOWS, "the section is wrong")
            if name in self.valid[section]:
                return self.valid[section][str(name)]
            if name in self.wrong.get(section, set()):
                raise PydanticCustomError(FOLLOWS, "the entry that it names is wrong")
        names = [entry for section in sections for entry in self.valid[section]]
        message = f"{name!r} is not an entry of {' or '.join(sections)}. {suggest(name, names)}"
        raise PydanticCustomError(WRONG, "{message}", {"message": message})


def entry_of(*sections: str) -> AfterValidator:
    """Return a validator of a field that names an entry.

    Example: `dataset: Annotated[str, entry_of("datasets")]`. Without `Entries` as context, any name is valid.

    Args:
        sections: The sections that may have the entry.

    Returns:
        The validator, for `Annotated`.
    """

    def check(name: str, info: ValidationInfo) -> str:
        if isinstance(info.context, Entries):
            info.context.find(name, *sections)
        return name

    return AfterValidator(check)


def _distinct(values: list[T]) -> list[T]:
    if len(set(values)) != len(values):
        raise ValueError("each value may occur only once")
    return values


Distinct = Annotated[list[T], Field(min_length=1), AfterValidator(_distinct)]


def parse(kind: type[S], data: Any, where: str) -> S:
    """Validate plain values as settings.

    Args:
        kind: The class of the settings.
        data: The values, such as a dictionary.
        where: The start of each line of the error.

    Returns:
        The settings.

    Raises:
        UserError: With one line for each wrong field.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(error_lines(error, data, where))) from None


def problem(location: Location, message: str) -> InitErrorDetails:
    """Return an error for `invalid`.

    Args:
        location: The keys that lead to the wrong field.
        message: Description of the problem and its remedy.
    """
    return InitErrorDetails(
        type=PydanticCustomError(WRONG, "{message}", {"message": message}), loc=location, input=None
    )


def invalid(*problems: InitErrorDetails) -> ValidationError:
    """Return the exception that a validator raises to report problems of fields inside its value."""
    return ValidationError.from_exception_data("settings", list(problems))


def problems_of(error: ValidationError) -> list[InitErrorDetails]:
    """Return the problems of a validation error, which a validator can raise again with `invalid`."""
    return [_raised_again(detail) for detail in error.errors()]


def below(problems: Iterable[InitErrorDetails], *keys: int | str) -> list[InitErrorDetails]:
    """Return problems of a value that stands below the keys."""
    return [InitErrorDetails(type=p["type"], loc=(*keys, *p.get("loc", ())), input=p["input"]) for p in problems]


def error_lines(error: ValidationError, data: Any, where: str) -> list[str]:
    """Describe a validation error in one line per wrong field.

    Args:
        error: The error.
        data: The values that were validated.
        where: The start of each line.

    Returns:
        The lines, without errors that follow from others.
    """
    details = [detail for detail in error.errors() if detail["type"] != FOLLOWS] or error.errors()
    places = [(_path(data, detail), detail) for detail in details]
    # A value of several possible types has an error for each type. The one that lies deepest says what is wrong.
    deeper = {path[:length] for path, _ in places for length in range(len(path))}
    lines: dict[Location, str] = {}
    for path, detail in places:
        if detail["type"] == WRONG or path not in deeper:
            start = where if not where or where.endswith(" ") or not path else f"{where}."
            line = f"{start}{'.'.join(map(str, path))}: {_message(detail)}".removeprefix(": ")
            lines.setdefault(path, line)
    return list(lines.values())


def _raised_again(detail: ErrorDetails) -> InitErrorDetails:
    """Return an error that a validator can raise again."""
    kind = PydanticCustomError(detail["type"], "{message}", {"message": detail["msg"]})
    return InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"])


def _path(data: Any, detail: ErrorDetails) -> Location:
    """Return the keys that lead to a wrong field, as they stand in the file.

    The location that pydantic gives also names the types of a union, and fields that the file does not have.
    """
    return tuple(_steps(data, detail["loc"], detail["type"] in ("missing", WRONG)))


def _steps(data: Any, location: Location, may_be_missing: bool) -> Iterator[int | str]:
    for number, key in enumerate(location):
        is_key = isinstance(data, dict) and key in data
        is_index = isinstance(data, list) and isinstance(key, int) and key < len(data)
        if is_key or is_index:
            data = data[key]
            yield key
        elif number == len(location) - 1 and may_be_missing:
            yield key


def _message(detail: ErrorDetails) -> str:
    """Return what is wrong with a field."""
    message, value = detail["msg"].removeprefix("Value error, "), f"{detail['input']!r:.80}"
    if detail["type"] == WRONG:
        return message
    if detail["type"] == "missing":
        return "missing. Add it."
    if detail["type"] in ("model_type", "dict_type"):
        return f"should be a mapping of settings, not {value}"
    if message.startswith("Input should be "):
        return f"{message.removeprefix('Input ')}, not {value}"
    return message if isinstance(detail["input"], dict) else f"{message} (got {value})"
