"""Subsets of a catalog: some of its pairs, sequences or images, chosen by seed or by name."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ditf.data.catalog import Catalog
from ditf.errors import UserError

# Tables whose rows are chosen, with the column that names them. The first one that a catalog has is used.
UNITS = {"pairs": "pair", "homographies": "pair", "sequences": "sequence", "images": "id"}


def choose(catalog: Catalog, selection: int | Sequence[str], seed: int) -> list[str]:
    """Choose pairs, sequences or images of a catalog.

    Args:
        catalog: The catalog.
        selection: Number per category, or of sequences; or the names themselves.
        seed: Seed of the choice, which does not depend on the order of the catalog.

    Returns:
        The chosen names.

    Raises:
        UserError: The catalog does not have one of the names.
    """
    table, key = unit_of(catalog)
    rows = catalog.rows(table)
    if not isinstance(selection, int):
        if unknown := sorted(set(selection) - {row[key] for row in rows}):
            raise UserError(f"subset: {unknown[0]!r} is not in {catalog.folder}/{table}.parquet. Correct it.")
        return list(selection)
    names_by_category: dict[str, list[str]] = {}
    for row in rows:
        names_by_category.setdefault(row.get("category", ""), []).append(row[key])
    rng, chosen = np.random.default_rng(seed), []
    for _, names in sorted(names_by_category.items()):
        chosen += [str(name) for name in rng.permutation(sorted(names))[:selection]]
    return chosen


def keep_subset(folder: Path, selection: int | Sequence[str]) -> None:
    """Remove from a catalog what is not in a subset.

    Args:
        folder: Folder of the catalog.
        selection: Number per category, or of sequences; or the names themselves.

    Raises:
        UserError: The catalog does not have one of the names.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        complete = Catalog(shutil.copytree(folder, Path(temporary) / folder.name))
        write_subset(complete, choose(complete, selection, seed=0), folder)


def unit_of(catalog: Catalog) -> tuple[str, str]:
    """Return the table whose rows are chosen, and the column that names them."""
    return next((table, key) for table, key in UNITS.items() if catalog.has(table))


def write_subset(catalog: Catalog, names: Sequence[str], folder: Path) -> Catalog:
    """Write the rows that belong to the chosen pairs, sequences or images as a catalog in `folder`, and return it."""
    shutil.rmtree(folder, ignore_errors=True)  # an earlier subset
    folder.mkdir(parents=True)
    tables = {path.stem: pq.read_table(path) for path in sorted(catalog.folder.glob("*.parquet"))}
    unit, key = unit_of(catalog)
    chosen = pa.array(list(names), pa.string())
    images = set(names) if unit == "images" else set()
    for name, table in tables.items():
        if key in table.column_names:
            tables[name] = table.filter(pc.is_in(table[key], chosen))
        if unit != "images" and name in ("pairs", "homographies", "frames"):
            for column in ("id",) if name == "frames" else ("source", "target"):
                images |= set(tables[name][column].to_pylist())
    ids = pa.array(sorted(images), pa.string())
    for name, table in tables.items():
        rows = table.filter(pc.is_in(table["id"], ids)) if "id" in table.column_names else table
        pq.write_table(rows, folder / f"{name}.parquet")
    return Catalog(folder)
