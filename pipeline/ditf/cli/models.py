"""The command `ditf models`: the families of models and their published models."""

from ditf.cli.output import print_table
from ditf.errors import exit_on_error


@exit_on_error
def models() -> None:
    """List the model families and their published models.

    A family is the `type` of an entry of models, a Hub id its `source`. Any finetune with the same architecture works,
    too, from a Hub id or a local folder.

    \b
    Example:
      ditf models
    """
    from ditf.backbones.base import Backbone
    from ditf.registry import find_type, registered

    for family in registered(Backbone):
        kind = find_type(Backbone, family)
        defaults = {name: field.default for name, field in kind.model_fields.items()}
        block = f"block {defaults['blocks'][0]}" + (f", t {defaults['timestep']}" if "timestep" in defaults else "")
        rows = [
            {
                "Hub id": source,
                "parameters": f"{model.parameters:g} B",
                "blocks": f"0..{model.blocks - 1}",
                "channels": str(model.channels),
                "licence": model.licence,
            }
            for source, model in kind.published.items()
        ]
        title = f"{family}: {block} by default; descriptors {', '.join(kind.descriptors)}"
        print_table(title, rows, left=("Hub id", "blocks", "licence"))
