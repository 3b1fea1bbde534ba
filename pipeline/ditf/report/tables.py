"""Load the tables of results in Python."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ditf.errors import UserError

# Columns of names, which stay text even if all names are numbers. "value" names a member of the column "group".
NAMES = (
    "category",
    "descriptor",
    "frame",
    "group",
    "id",
    "label",
    "metric",
    "name",
    "object",
    "pair",
    "rule",
    "sequence",
    "source",
    "target",
    "unit",
)


def load_results(folder: Path | str) -> dict[str, pa.Table]:
    """Load the tables of a task's results.

    Args:
        folder: Folder of the results, such as `results/spair-flux`.

    Returns:
        The tables by name. Names of sequences, images and similar columns are strings. If pandas is installed,
        `.to_pandas()` converts a table.

    Raises:
        UserError: The folder has no tables.
    """
    tables = {
        path.stem: _read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix in (".csv", ".parquet")
    }
    if not tables:
        raise UserError(f"{folder}: holds no tables of results. Run `dvc repro`.")
    return tables


def _read_csv(path: Path) -> pa.Table:
    """Read a table that `ditf.data.tables.write_table` wrote. Names are strings."""
    with path.open(encoding="utf-8") as file:
        columns = file.readline().rstrip("\r\n").split(",")
    names = [*NAMES, *(["value"] if "group" in columns else [])]
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
