"""Tables of results as CSV files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ditf.files import write_atomically


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table that `write_table` wrote.

    Args:
        path: The CSV file.

    Returns:
        A dictionary from column to text for each row. Without a file, there are no rows.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table. Floats get six significant digits. Without rows, no file is written.

    Args:
        path: The CSV file. It is replaced, because an existing file may be a hard link into DVC's cache.
        rows: Rows with the same columns.

    Raises:
        UserError: The file cannot be written.
    """
    if not rows:
        return
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue().encode())
