"""A part of a catalog: some of its pairs, sequences or images, chosen by seed or by name."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ditf.data.catalog import Catalog
from ditf.errors import UserError

# The tables whose rows are chosen, with the column that names them; the first that a catalog has.
UNITS = {"pairs": "pair", "homographies": "pair", "sequences": "sequence", "images": "id"}


def choose(catalog: Catalog, wanted: int | Sequence[str], seed: int) -> list[str]:
    """Names of pairs, sequences or images.

    Args:
        catalog: to choose from.
        wanted: how many per category, or of sequences; or their names.
        seed: of the choice, which does not depend on the order of the catalog.

    Raises:
        UserError: the catalog has nothing of a given name.
    """
    table, key = unit_of(catalog)
    rows = catalog.rows(table)
    if not isinstance(wanted, int):
        if unknown := sorted(set(wanted) - {row[key] for row in rows}):
            raise UserError(f"subset: {unknown[0]!r} is not in the table {table} of {catalog.folder}")
        return list(wanted)
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.get("category", ""), []).append(row[key])
    rng, chosen = np.random.default_rng(seed), []
    for _, names in sorted(groups.items()):
        chosen += [str(name) for name in rng.permutation(sorted(names))[:wanted]]
    return chosen


def unit_of(catalog: Catalog) -> tuple[str, str]:
    """The table whose rows are chosen, and the column that names them."""
    return next((table, key) for table, key in UNITS.items() if catalog.has(table))


def write_subset(catalog: Catalog, names: Sequence[str], folder: Path) -> Catalog:
    """Write the part of a catalog that belongs to some of its pairs, sequences or images, as a catalog of its own."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier choice
    folder.mkdir(parents=True)
    tables = {path.stem: pq.read_table(path) for path in sorted(catalog.folder.glob("*.parquet"))}
    unit, key = unit_of(catalog)
    kept = pa.array(list(names), pa.string())
    images = set(names) if unit == "images" else set()
    for name, table in tables.items():
        if key in table.column_names:
            tables[name] = table.filter(pc.is_in(table[key], kept))
        if unit != "images" and name in ("pairs", "homographies", "frames"):
            for column in ("id",) if name == "frames" else ("source", "target"):
                images |= set(tables[name][column].to_pylist())
    own = pa.array(sorted(images), pa.string())
    for name, table in tables.items():
        whole = table.filter(pc.is_in(table["id"], own)) if "id" in table.column_names else table
        pq.write_table(whole, folder / f"{name}.parquet")
    return Catalog(folder)
