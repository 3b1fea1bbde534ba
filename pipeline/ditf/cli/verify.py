"""The command `ditf verify`."""

from ditf.cli.options import Features, load_project
from ditf.errors import UserError, exit_on_error


@exit_on_error
def verify(features: Features = None) -> None:
    """Check all features and indexes for damage.

    Reads every chunk, compares it with its checksum, and lists what is damaged. Exits with status 2 if anything is.

    \b
    Example:
      ditf verify --features spair-flux
    """
    params = load_project()
    from ditf.project import upkeep

    problems = []
    for check in upkeep.verify(params, features):
        problems += check.problems
        state = f"{len(check.problems)} problems" if check.problems else "intact"
        print(f"{check.path}: {state}" + (f", {check.items} items" if check.items is not None else ""))
    if problems:
        raise UserError("\n".join(problems))
