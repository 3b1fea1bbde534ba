"""The results as tables on the terminal, and where the pictures lie."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.errors import UserError
from pipeline.params import Params
from stages import RESULTS

TINY = "cache/tiny-flux"


def show_all(params: Params) -> None:
    """Print all figures that there are, and the pictures' paths."""
    pictures = [
        path
        for path in sorted(RESULTS.glob("*/*/*"))
        if path.parent.name in ("pictures", "channels") and path.suffix in (".png", ".gif")
    ]
    if not pictures:
        raise UserError(f"{RESULTS}: no results yet; run `dvc repro`")
    show_pck()
    show_jf()
    if params.model.source == TINY:
        print(
            "These are figures of a tiny random model, in which two massive channels were planted:\n"
            "they show that the pipeline works, not how well FLUX sees."
        )
    print("Pictures:")
    for path in pictures:
        print(f"  {path}")


def show_rows(rows: list[dict[str, Any]], picture: Path, as_json: bool) -> None:
    """Print what a search or a match found, and where the picture lies."""
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        print(picture, file=sys.stderr)
        return
    columns = [name for name in rows[0] if name not in ("box", "token") and rows[0][name] is not None]
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="left" if name == "image" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    Console().print(table)
    print(f"Picture: {picture}")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(f"{part:.0f}" for part in value) if isinstance(value, (list, tuple)) else str(value)


def show_pck() -> None:
    """Print PCK by category of the last descriptor, and of all descriptors over all pairs."""
    path = RESULTS / "spair" / "pck.csv"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "category"]
    last = rows[-1]["descriptor"]
    by_category = [row for row in rows if row["descriptor"] == last]
    _print_pck(f"PCK by category, in percent, per image and per point ({last})", "value", by_category)
    if len({row["descriptor"] for row in rows}) > 1:
        _print_pck(
            "PCK by descriptor, in percent, over all pairs", "descriptor", [r for r in rows if r["value"] == "All"]
        )


def show_jf() -> None:
    """Print J and F of all descriptors."""
    path = RESULTS / "davis" / "jf.json"
    if not path.exists():
        return
    metrics = json.loads(path.read_text(encoding="utf-8"))
    table = Table(title="J and F over all objects", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in next(iter(metrics.values())):
        table.add_column(name.replace("-", "\n"), justify="right")
    for descriptor, figures in metrics.items():
        table.add_row(descriptor, *(f"{value:.3f}" for value in figures.values()))
    Console().print(table)


def _print_pck(title: str, key: str, rows: list[dict[str, str]]) -> None:
    """One line for each value of `key`, two columns for each alpha."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    alphas = list(dict.fromkeys(row["alpha"] for row in rows))
    for alpha in alphas:
        for kind in ("image", "point"):
            table.add_column(f"{kind}\n@{alpha}", justify="right")
    for name in dict.fromkeys(row[key] for row in rows):
        cells = {row["alpha"]: row for row in rows if row[key] == name}
        table.add_row(name, *(cells[alpha][kind] for alpha in alphas for kind in ("image", "point")))
    Console().print(table)
