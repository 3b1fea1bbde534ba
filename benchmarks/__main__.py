"""Run every benchmark, each in a process of its own, and keep what they print in docs/benchmarks.md."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MARK = "<!-- what follows is printed by `python -m benchmarks` -->"
RUNS = (
    ["busy"],
    ["matching"],
    ["matching", "--images", "1620", "--pairs", "36000", "--points", "17", "--across"],
    ["probe"],
    ["propagation"],
    ["propagation", "--skip-reference", "--grid", "30", "53"],
    ["segmentation"],
    ["store"],
    ["extraction"],
    ["sweep"],
    ["workers"],
    ["search"],
    ["search", "--images", "209"],
    ["explore"],
    ["explore_page"],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="the benchmarks to run again; the others' tables stay. Default: all")
    only = parser.parse_args().only
    head, _, body = PAGE.read_text(encoding="utf-8").partition(MARK)
    kept = dict(re.findall(r"^`(python -m [^`]*)`\n\n(.*?)(?=\n\n`python|\Z)", body.strip(), re.DOTALL | re.MULTILINE))
    for module, *options in RUNS:
        name = " ".join(["python", "-m", f"benchmarks.{module}", *options])
        if only and module not in only:
            continue
        command = [sys.executable, *name.split()[1:]]
        kept[name] = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        print(kept[name], flush=True)
    sections = [f"`{name}`\n\n{printed}" for name, printed in kept.items()]
    PAGE.write_text(head + MARK + "\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
