"""The tables of results, for use in Python."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ditf.errors import UserError


def load_results(folder: Path | str) -> dict[str, pa.Table]:
    """The tables of a task's results, such as `results/spair-flux`, by name; `.to_pandas()` gives pandas.

    Raises:
        UserError: the folder holds none.
    """
    tables = {
        path.stem: pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix in (".csv", ".parquet")
    }
    if not tables:
        raise UserError(f"{folder}: holds no tables of results")
    return tables
