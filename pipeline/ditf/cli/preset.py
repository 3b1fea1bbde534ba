"""The commands `ditf presets` and `ditf preset`: sets of entries that reproduce rows of published tables."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ditf.cli.options import assignments
from ditf.cli.output import print_table
from ditf.errors import exit_on_error
from ditf.project.paths import enter

if TYPE_CHECKING:
    from ditf.project.presets import Preset

TFLOPS = 150.0  # of the GPU that `preset show` plans for

preset = typer.Typer(no_args_is_help=True, help="Reproduce rows of published tables.", rich_markup_mode=None)
PresetName = Annotated[str, typer.Argument(metavar="NAME", help="A preset; `ditf presets` lists them.")]
Roots = Annotated[
    list[str] | None,
    typer.Option("--root", metavar="NAME=FOLDER", help="Folder of a data set of the preset. Repeat for each."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME=SOURCE", help="Local folder or Hub id of a model, instead of the preset's."),
]
PLANNED = {
    "images": "images",
    "time on one worker": "GPU time",
    "features on disk": "disk",
    "GPU that suffices": "GPU",
    "GPU with offload: blocks": "GPU with\noffload: blocks",
}


@exit_on_error
def presets() -> None:
    """List the presets for rows of published tables.

    A preset is a set of entries for params.yaml.

    \b
    Example:
      ditf presets
    """
    from ditf.project.presets import load_preset, preset_names

    rows = []
    for name in preset_names():
        header = load_preset(name).header
        rows.append(
            {"preset": name, "version": str(header.version), "data": ", ".join(header.data), "rows": header.title}
        )
    print_table("", rows, left=("preset", "data", "rows"))
    print("`ditf preset show NAME` explains one. `ditf init FOLDER --preset NAME` makes a project with it.")


@preset.command()
@exit_on_error
def show(
    name: PresetName,
    tflops: Annotated[
        float, typer.Option("--tflops", min=0.001, help="Speed in TFLOP/s of the GPU to plan for.")
    ] = TFLOPS,
) -> None:
    """Explain a preset: its source, rows and settings, and what it needs.

    Needs neither the data nor a model. Costs are computed for the official releases of the data sets.

    \b
    Example:
      ditf preset show ditf-spair
    """
    from ditf.config.yaml_file import dump_yaml
    from ditf.project.plan import plan_released
    from ditf.project.presets import load_preset

    chosen = load_preset(name)
    header = chosen.header
    print(f"{name}, version {header.version}: {header.title}\nSource: {header.source}\n")
    _print_rows(chosen)
    for kind, title in (
        ("unverified", "Unverified settings, which no source publishes:"),
        ("differs", "Settings that differ from the published ones:"),
    ):
        if remarks := getattr(header, kind):
            print(title, *(f"  {path}: {reason}" for path, reason in remarks.items()), "", sep="\n")
    print("Data:")
    for key, data in header.data.items():
        print(f"  --root {key}=FOLDER: {data.title}, {data.url}" + (f"\n    {data.note}" if data.note else ""))
    print("\nModels:")
    for source, model in chosen.models.items():
        parameters = model.parameters + model.text
        encoders = " with text encoders" if model.text else ""
        size = f"{parameters:.3g} B parameters{encoders}, {2 * parameters:.3g} GB in 16 bits"
        print(f"  {source}: {size}; {model.licence}")
    plan = plan_released(chosen.params, tflops)
    labels = {row[""]: row for row in plan.rows}
    rows = [
        {"": entry, **{short: labels[label][entry] for label, short in PLANNED.items()}}
        for entry in chosen.params.features
    ]
    print()
    print_table("Cost of the features, for the official releases of the data sets", rows)
    print(*plan.notes, "", "Settings:", dump_yaml(chosen.sections), sep="\n")


@preset.command()
@exit_on_error
def add(name: PresetName, root: Roots = None, model: Sources = None) -> None:
    """Add the entries of a preset to params.yaml.

    Entries that are there with equal settings are used. An entry of the same name with other settings is an error, and
    nothing is changed then. Comments stay.

    \b
    Example:
      ditf preset add ditf-davis --root davis=/data/DAVIS
    """
    from ditf.project.presets import add_preset, load_preset

    chosen = load_preset(name)
    roots, sources = assignments("--root", root, folders=True), assignments("--model", model)
    enter()
    added = add_preset(chosen, roots, sources)
    for section, names in added.items():
        print(f"params.yaml: {section}: added {', '.join(names)}")
    if not added:
        print(f"params.yaml has all entries of the preset {name}.")
    warn_of_missing(roots)


def warn_of_missing(roots: Mapping[str, str]) -> None:
    """Warn of folders of data sets that are not there yet."""
    for root in roots.values():
        if not Path(root).is_dir():
            print(f"warning: {root}: not there yet. `ditf doctor` checks it.", file=sys.stderr)


def _print_rows(chosen: "Preset") -> None:
    """Print the rows of a preset beside the published figures."""
    rows = []
    for row in chosen.header.rows:
        published = chosen.published(row)
        remarks = chosen.remarks(row.task)
        rows.append(
            {
                "row": row.title,
                "task": row.task,
                "descriptor": row.descriptor,
                "published": f"{published.value:g} {published.metric}" if published else "-",
                "settings": ", ".join(kind for kind, paths in remarks.items() if paths) or "published",
            }
        )
    print_table("", rows, left=("row", "task", "descriptor", "settings"))
