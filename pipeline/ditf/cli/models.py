"""The command `ditf models`: which families of models there are."""

from rich import box
from rich.console import Console
from rich.table import Table

from ditf.backbones.base import Backbone
from ditf.registry import find_type, registered

COLUMNS = ("Hub id", "parameters", "blocks", "channels", "licence")


def show_models() -> None:
    """Print a table per family, with a row per published model."""
    for family in registered(Backbone):
        kind = find_type(Backbone, family)
        fields = {name: field.default for name, field in kind.model_fields.items()}
        default = f"block {fields['blocks'][0]}" + (f", t {fields['timestep']}" if "timestep" in fields else "")
        title = f"{family}: {default} by default; descriptors {', '.join(kind.descriptors)}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for name in COLUMNS:
            table.add_column(name, justify="right" if name in ("parameters", "channels") else "left")
        for source, model in kind.published.items():
            numbers = (f"{model.parameters:g} B", f"0..{model.blocks - 1}", str(model.channels))
            table.add_row(source, *numbers, model.licence)
        Console(markup=False, emoji=False).print(table)
