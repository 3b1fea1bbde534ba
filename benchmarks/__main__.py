"""Run every benchmark, each in a process of its own, and keep what they print in docs/benchmarks.md."""

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MARK = "<!-- what follows is printed by `python -m benchmarks` -->"
RUNS = (
    ["matching"],
    ["propagation"],
    ["propagation", "--skip-direct", "--grid", "30", "53"],
    ["segmentation"],
    ["store"],
    ["extraction"],
)


def main() -> None:
    sections = []
    for module, *options in RUNS:
        command = [sys.executable, "-m", f"benchmarks.{module}", *options]
        print("$", *command[1:], file=sys.stderr, flush=True)
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        print(printed, flush=True)
        sections.append(f"`{' '.join(['python', *command[1:]])}`\n\n{printed}")
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(head + MARK + "\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
