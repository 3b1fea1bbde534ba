"""Show all results on one page -> report.html."""

from ditf.files import write_atomically
from ditf.metrics.published import published_figures
from ditf.project.freshness import stale_tasks
from ditf.project.paths import PUBLISHED, REPORT, RESULTS
from ditf.report.page import render
from stages import Params, run


def main(params: Params) -> None:
    """Write the report."""
    write_atomically(REPORT, render(params, RESULTS, stale_tasks(params), published_figures(PUBLISHED)).encode())
    print(f"{REPORT}: {REPORT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
