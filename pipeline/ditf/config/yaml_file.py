"""Reading and editing YAML files as DVC does: with ruamel.yaml, as YAML 1.2."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ditf.errors import UserError
from ditf.files import write_atomically

FRAGILE = (":", "?")  # characters that some YAML readers refuse in an unquoted value inside { } or [ ]


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file as plain values.

    Args:
        path: The file.

    Raises:
        UserError: The file cannot be read, or is not valid YAML.
    """
    return parse_yaml(_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Return the content of YAML text as plain values.

    Args:
        text: The text.
        where: The name of the file, for errors.

    Raises:
        UserError: The text is not valid YAML.
    """
    try:
        return _reader().load(text)
    except YAMLError as error:
        raise _user_error(error, where) from None


def fragile_spellings(path: Path) -> list[str]:
    """Find values that some YAML readers cannot read after DVC has rewritten the file.

    `dvc exp run -S` drops quotes that ruamel.yaml does not need. Its reader in C, which not every machine has, refuses
    an unquoted ":" or "?" inside { } and [ ].

    Args:
        path: A YAML file.

    Returns:
        One line for each value, which says how to write it.
    """
    return [
        f"{path}: line {node.start_mark.line + 1}: {node.value!r} contains ':' or '?' inside {{ }} or [ ]. "
        f"DVC may not be able to read it after `dvc exp run -S`. {_robust_spelling(node.value)}"
        for node, in_mapping in _flow_scalars(_compose(_text(path), str(path)))
        if set(FRAGILE) & set(node.value) and (in_mapping or node.style not in ("'", '"'))
    ]


def set_entries(path: Path, entries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Add entries to the sections of a YAML file, or replace entries of the same name.

    All other lines, comments included, stay as they are.

    Args:
        path: The file.
        entries: The entries by section and name.

    Raises:
        UserError: The file cannot be read or written.
    """
    text = _text(path)
    for section, named in entries.items():
        for name, entry in named.items():
            text = _with_entry(text, section, name, entry, str(path))
    write_atomically(path, text.encode())


def empty_sections(text: str, sections: Iterable[str], where: str) -> str:
    """Remove all entries of some sections from YAML text. Comments before a section stay.

    Args:
        text: The text.
        sections: Names of the sections.
        where: The name of the file, for errors.

    Raises:
        UserError: The text is not valid YAML.
    """
    root = _compose(text, where)
    lines = text.splitlines(keepends=True)
    pairs = root.value if isinstance(root, MappingNode) else []
    for key, value in reversed(pairs):
        if key.value in sections:
            lines[key.start_mark.line : _last_line(value) + 1] = [f"{key.value}: {{}}\n"]
    return "".join(lines)


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return the YAML text of plain values, with each key on its own line and short lists in brackets."""
    yaml = YAML()
    yaml.width = 4096  # never fold a line
    stream = io.StringIO()
    yaml.dump(_styled(value), stream)
    return stream.getvalue()


def _reader() -> YAML:
    # The reader that is written in Python. The one in C, where it is installed, gives less helpful errors.
    return YAML(typ="safe", pure=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Run the command in the project's folder.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None


def _compose(text: str, where: str) -> Node | None:
    """Parse text into nodes, which know their lines and spelling."""
    try:
        return _reader().compose(io.StringIO(text))
    except YAMLError as error:
        raise _user_error(error, where) from None


def _user_error(error: YAMLError, where: str) -> UserError:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}")
    line = f"{where}: line {error.problem_mark.line + 1}"
    if isinstance(error, DuplicateKeyError):
        key = str(error.problem).split('"')[1]
        return UserError(f"{line}: {key!r} occurs twice. Remove one of them.")
    return UserError(f"{line}: not valid YAML: {error.problem}")


def _flow_scalars(
    node: Node | None, in_flow: bool = False, in_mapping: bool = False
) -> Iterator[tuple[ScalarNode, bool]]:
    """Yield the scalars inside { } and [ ], and whether one of the brackets around it is { }."""
    if isinstance(node, ScalarNode):
        if in_flow:
            yield node, in_mapping
    elif isinstance(node, MappingNode):
        in_flow = in_flow or bool(node.flow_style)
        for pair in node.value:
            for child in pair:
                yield from _flow_scalars(child, in_flow, in_mapping or bool(node.flow_style))
    elif isinstance(node, SequenceNode):
        for child in node.value:
            yield from _flow_scalars(child, in_flow or bool(node.flow_style), in_mapping)


def _robust_spelling(value: str) -> str:
    """Return what to write instead of a value that is fragile inside { } and [ ]."""
    if re.fullmatch(r"tiny:\d+", value):
        return f"Write {value.replace(':', '-')}."
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
        return f"Write {value.replace(':', '.')} if it names a class. Otherwise write each key on its own line."
    return "Write each key on its own line, without braces."


def _with_entry(text: str, section: str, name: str, entry: Mapping[str, Any], where: str) -> str:
    """Return text in which one entry of a section was added or replaced."""
    root = _compose(text, where)
    pairs = {key.value: (key, value) for key, value in root.value} if isinstance(root, MappingNode) else {}
    if section not in pairs:
        return f"{text.rstrip()}\n\n{dump_yaml({section: {name: entry}})}"
    key, value = pairs[section]
    lines = text.splitlines(keepends=True)
    if not isinstance(value, MappingNode) or value.flow_style or not value.value:
        # A section inside braces, such as `datasets: {}`, is written again with each key on its own line.
        present = _reader().load(text)[section] or {}
        after = text[value.end_mark.index :].partition("\n")
        block = _indented(dump_yaml({**present, name: entry}), "  ")
        return text[: key.end_mark.index] + ":" + after[0].rstrip() + "\n" + block + after[2]
    indentation = " " * value.value[0][0].start_mark.column
    start = end = _last_line(value) + 1
    for entry_key, entry_value in value.value:
        if entry_key.value == name:
            start, end = entry_key.start_mark.line, _last_line(entry_value) + 1
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines[:start], _indented(dump_yaml({name: entry}), indentation), *lines[end:]])


def _last_line(node: Node) -> int:
    """Return the number of the last line of a node, without the comments after it."""
    if isinstance(node, (MappingNode, SequenceNode)) and node.value and not node.flow_style:
        last = node.value[-1]
        return max(map(_last_line, last)) if isinstance(last, tuple) else _last_line(last)
    ends_before_line = node.end_mark.column == 0 and node.end_mark.line > node.start_mark.line  # of block text
    return int(node.end_mark.line) - ends_before_line


def _indented(text: str, indentation: str) -> str:
    return "".join(indentation + line for line in text.splitlines(keepends=True))


def _styled(value: Any) -> Any:
    """Return values that ruamel.yaml writes in block style, except for lists of numbers and simple names."""
    if isinstance(value, Mapping):
        return CommentedMap({key: _styled(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        items = CommentedSeq([_styled(item) for item in value])
        if not any(isinstance(item, (Mapping, list, tuple)) or set(FRAGILE) & set(str(item)) for item in value):
            items.fa.set_flow_style()
        return items
    return value
