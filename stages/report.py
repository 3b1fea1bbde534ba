"""All results on one page -> report.html."""

from pathlib import Path

from ditf.commands.project import RESULTS
from ditf.files import write_whole
from ditf.report import render
from stages import Params, run

PAGE = Path("report.html")


def main(params: Params) -> None:
    write_whole(PAGE, render(params, RESULTS).encode())
    print(f"{PAGE}: {PAGE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
