"""The command `ditf repair`."""

from ditf.cli.options import Features, load_project
from ditf.errors import exit_on_error


@exit_on_error
def repair(features: Features = None) -> None:
    """Compute damaged features again.

    Uses the parameters and the model that made them, after checking that these are unchanged.

    \b
    Example:
      ditf repair --features spair-flux
    """
    params = load_project()
    from ditf.project.repair import repair

    for result in repair(params, features):
        counts = {"files of metadata written again": result.metadata, "chunks computed again": result.chunks}
        print(f"{result.path}: {', '.join(f'{count} {what}' for what, count in counts.items() if count) or 'intact'}")
