"""Tables on the terminal, shared by the commands that print results."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

UNLIMITED = 100_000  # columns


def print_table(title: str, rows: Sequence[Mapping[str, str]], left: Sequence[str] = ("",)) -> None:
    """Print rows with the same keys as a table. Output that is piped or redirected is never wrapped or cut.

    Args:
        title: Line above the table, or an empty string.
        rows: Cells by column name.
        left: Columns that are aligned to the left.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        print(title)
    table = Table(box=box.SIMPLE_HEAD)
    for name in rows[0]:
        table.add_column(Text(name), justify="left" if name in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))  # Text, since rich would read [...] as markup
    Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False).print(table)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_drawing(path: Path | None, as_json: bool) -> None:
    """Print where a drawing was written; to standard error beside JSON."""
    if path:
        print(f"Drawing: {path}", file=sys.stderr if as_json else sys.stdout)


def cell(value: Any) -> str:
    """Return a number with three decimals, a point or a box without decimals, and anything else as text."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(f"{part:.0f}" for part in value) if isinstance(value, (list, tuple)) else str(value)
