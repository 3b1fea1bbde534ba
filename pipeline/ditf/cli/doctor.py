"""The command `ditf doctor`."""

import typer

from ditf.errors import exit_on_error
from ditf.project.paths import enter


@exit_on_error
def doctor() -> None:
    """Check data, weights and machine before a run.

    Compares data sets with their releases, weights with their indexes, and GPU and disk space with the plan. Checks
    versions of libraries and DVC's cache. Prints one line for each finding, with what to do about a problem. Loads no
    model, reads no image and downloads nothing. Exits with status 1 if there is an error.

    \b
    Example:
      ditf doctor
    """
    enter()
    from ditf.project.doctor import diagnose

    counts = {"ok": 0, "warning": 0, "error": 0}
    for finding in diagnose():
        counts[finding.level] += 1
        print(f"{finding.level + ':':8} {finding.text}", flush=True)
    shown = [f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}" for level in ("error", "warning")]
    print(" and ".join(shown))
    if counts["error"]:
        raise typer.Exit(1)
