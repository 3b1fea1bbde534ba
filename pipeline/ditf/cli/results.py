"""The results of tasks as tables on the terminal, and where the visualizations are."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ditf.backbones.source import TINY
from ditf.config.params import FILE, Params
from ditf.errors import UserError
from ditf.project.paths import REPORT, RESULTS
from ditf.tasks.base import read_csv

Rows = list[dict[str, str]]


def show_all(params: Params) -> None:
    """Print the results of every task that has some, and the paths of the visualizations."""
    done = [name for name in params.tasks if (RESULTS / name / "metrics.json").exists()]
    if not done:
        raise UserError(f"{RESULTS}: no results yet; run `dvc repro`")
    for name in done:
        show_task(params, name)
    if any(source.startswith(TINY) for name in done for source in params.sources_of(params.tasks[name].features)):
        print(
            "These are results of a tiny random model, in which two massive channels were planted:\n"
            "they show that the pipeline works, not how well a trained model sees."
        )
    print("Visualizations:")
    for path in sorted([*RESULTS.glob("*/visualizations/*"), *RESULTS.glob("analysis/*/*.png")]):
        print(f"  {path}")
    if REPORT.exists():
        print(f"All of it on one page: {REPORT}")
    if changed := changed_parameters():
        print(f"Parameters have changed since: {', '.join(changed)}. Run `dvc repro`.")


def show_task(params: Params, name: str) -> None:
    """Print the results of one task."""
    tables = RESULTS / name / "tables"
    shown: dict[str, Callable[[str, Path], None]] = {"pck.csv": _show_pck, "jf_all.csv": _show_jf}
    for file, show in shown.items():
        if (tables / file).exists():
            show(name, tables / file)
            return
    metrics = json.loads((RESULTS / name / "metrics.json").read_text(encoding="utf-8"))
    if not metrics:
        print(
            f"{name}: not scored, because the data set has no true answers. Predictions: {RESULTS / name}/predictions"
        )
        return
    _print(name, [{"": key, **{n: f"{v:g}" for n, v in values.items()}} for key, values in metrics.items()])


def show_found(rows: list[dict[str, Any]], drawing: Path | None, as_json: bool) -> None:
    """Print what a search or a match found, and where its drawing is."""
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        columns = [name for name in rows[0] if name not in ("box", "token") and rows[0][name] is not None]
        _print("", [{name: _cell(row[name]) for name in columns} for row in rows], left="image")
    if drawing:
        print(f"Drawing: {drawing}", file=sys.stderr if as_json else sys.stdout)


def show_compared(
    metrics: list[dict[str, Any]], changed: list[dict[str, Any]], drawing: Path | None, as_json: bool
) -> None:
    """Print what a comparison found, and where its drawing is."""
    if as_json:
        print(json.dumps({"metrics": metrics, "changed": changed}, indent=1, ensure_ascii=False))
    else:
        shown = [
            {
                "": row["metric"],
                **{name: f"{row[name]:.4g}" for name in ("first", "second")},
                "difference": f"{row['difference']:+.4g}",
                "95 % interval": f"{row['low']:+.3g} to {row['high']:+.3g}" if row["low"] is not None else "",
                "p": f"{row['p']:.3g}",
            }
            for row in metrics
        ]
        _print(f"Second minus first, over {metrics[0]['units']} units", shown)
        if changed:
            _print(
                "Changed most",
                [
                    {k: v if k == "part" else f"{v:+.4g}" if k == "difference" else f"{v:.4g}" for k, v in row.items()}
                    for row in changed
                ],
                left="part",
            )
    if drawing:
        print(f"Drawing: {drawing}", file=sys.stderr if as_json else sys.stdout)


def changed_parameters() -> list[str]:
    """The parameters on which stages ran with other values than `params.yaml` has now."""
    try:
        lock = YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
        now = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))
    except (OSError, YAMLError, KeyError, TypeError):
        return []
    changed = set()
    for stage in lock.values():
        for path, value in stage.get("params", {}).get(FILE.name, {}).items():
            found = now
            for part in path.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if found is not None and found != value:
                changed.add(path)
    return sorted(path for path in changed if not any(other.startswith(f"{path}.") for other in changed))


def _show_pck(name: str, path: Path) -> None:
    """PCK by category of the last descriptor, and of all descriptors over all pairs."""
    every = read_csv(path)
    rule = every[0]["rule"]
    rows = [row for row in every if row["group"] == "category" and row["rule"] == rule]
    last = rows[-1]["descriptor"]
    title = f"{name}: PCK by category, in percent, per image and per point ({last})"
    _print(title, _by_alpha([row for row in rows if row["descriptor"] == last], "value"))
    if len({row["descriptor"] for row in rows}) > 1:
        title = f"{name}: PCK by descriptor, in percent, over all pairs"
        _print(title, _by_alpha([row for row in rows if row["value"] == "All"], "descriptor"))
    whole = [row for row in every if row["value"] == "All" and row["descriptor"] == last]
    others = [{**r, "value": r["rule"] if r["group"] == "category" else r["group"].replace("_", " ")} for r in whole]
    if len(others) > len({row["alpha"] for row in rows}):
        _print(f"{name}: PCK by threshold rule and subset of keypoints, over all pairs", _by_alpha(others, "value"))


def _show_jf(name: str, path: Path) -> None:
    rows = [
        {key.replace("-", "\n") if key != "descriptor" else "": _fraction(value) for key, value in row.items()}
        for row in read_csv(path)
    ]
    _print(f"{name}: J and F over all objects", rows)


def _by_alpha(rows: Rows, key: str) -> Rows:
    """One row per value of `key`, two columns per alpha."""
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = table.setdefault(row[key], {"": row[key]})
        for kind in ("image", "point"):
            cells[f"{kind}\n@{row['alpha']}"] = f"{float(row[kind]):.2f}"
    return list(table.values())


def _print(title: str, rows: Rows, left: str = "") -> None:
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name in rows[0]:
        table.add_column(name, justify="left" if name == left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    # Names of files may look like rich's markup or emoji, such as "cat [edited].jpg".
    Console(markup=False, emoji=False).print(table)


def _fraction(value: str) -> str:
    try:
        return f"{float(value):.3f}"
    except ValueError:
        return value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(f"{part:.0f}" for part in value) if isinstance(value, (list, tuple)) else str(value)
