"""The command `ditf init`."""

import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from ditf.cli.options import assignments
from ditf.cli.preset import Roots, Sources, warn_of_missing
from ditf.errors import UserError, exit_on_error

GIT_IGNORE = "/cache\n/catalogs\n/data\n/results\n/report.html\n__pycache__/\n"
DVC_IGNORE = "\n# Images that commands draw beside the results.\n/results/drawings\n\n__pycache__/\n"
# With hard links first, DVC stores each output once on the disk instead of twice.
DVC_CONFIG = """\
[core]
    analytics = false
    check_update = false
{no_scm}[cache]
    type = "hardlink,reflink,symlink,copy"
"""


@exit_on_error
def init(
    folder: Annotated[Path, typer.Argument(help="An empty folder, or a new one.")] = Path(),
    no_git: Annotated[
        bool, typer.Option("--no-git", help="Do not create a git repository. DVC experiments need one.")
    ] = False,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Start with the entries of a preset.")
    ] = None,
    root: Roots = None,
    model: Sources = None,
) -> None:
    """Create a project in an empty folder.

    Writes params.yaml, dvc.yaml, published.csv and the stages. The parameters run the embedded sample data with a small
    trained model. With --preset, they run the rows of a published table; see `ditf presets`. Creates a git repository
    with a first commit, unless FOLDER is inside one or git is not installed.

    \b
    Example:
      ditf init my-project
      cd my-project
      dvc repro
      ditf init paper --preset ditf-spair --root spair=/data/SPair-71k
    """
    roots, sources = assignments("--root", root, folders=True), assignments("--model", model)
    if preset is None and (root or model):
        raise UserError(
            "--root and --model: name data sets and models of a preset. Give --preset, or edit params.yaml."
        )
    if folder.exists() and (not folder.is_dir() or any(path.name != ".git" for path in folder.iterdir())):
        raise UserError(f"{folder}: not empty. Give an empty folder, or a new one.")
    if preset is not None:
        from ditf.project.presets import load_preset, start_project

        chosen = load_preset(preset)
        entries = chosen.entries(roots, sources)
    with resources.as_file(resources.files("ditf") / "template") as packaged:
        source = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3]
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("dvc.yaml", "params.yaml", "published.csv"):
            shutil.copy(source / name, folder / name)
        shutil.copytree(source / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    if preset is not None:
        start_project(folder / "params.yaml", chosen, entries)
    _remove_package_files(folder / "dvc.yaml")
    (folder / ".gitignore").write_text(GIT_IGNORE, encoding="utf-8")
    inside = not no_git and _git(folder, "rev-parse", "--is-inside-work-tree")
    created = not no_git and not inside and _git(folder, "init", "--quiet")
    _create_dvc(folder, inside or created)
    if created:
        _commit(folder)
    under = "git and DVC" if inside or created else "DVC, without git"
    advice = "Edit params.yaml" if preset is None else "Run `ditf plan`"
    print(f"{folder}: created a project under {under}. {advice}, then run `dvc repro` there.")
    warn_of_missing(roots)
    if inside:
        print("Commit its files to git before you run experiments with `dvc exp run`.")


def _git(folder: Path, *arguments: str) -> bool:
    """Run git in `folder` and return whether it succeeded; False if git is not installed."""
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _commit(folder: Path) -> None:
    """Commit all files, since DVC's experiments start from a commit."""
    named = _git(folder, "var", "GIT_AUTHOR_IDENT")  # fails if git does not know the user's name and address
    author = [] if named else ["-c", "user.name=ditf", "-c", "user.email=ditf@localhost"]
    _git(folder, "add", "--all")
    _git(folder, *author, "commit", "--quiet", "--message", "Create a ditf project")


def _create_dvc(folder: Path, with_git: bool) -> None:
    """Create the folder `.dvc`, with usage statistics off."""
    flag = ["--no-scm"] if not with_git else [] if (folder / ".git").exists() else ["--subdir"]
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--quiet", *flag], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{folder}: DVC cannot be set up here: {' '.join(done.stderr.split())}")
    config = DVC_CONFIG.format(no_scm="" if with_git else "    no_scm = true\n")
    (folder / ".dvc" / "config").write_text(config, encoding="utf-8")
    with (folder / ".dvcignore").open("a", encoding="utf-8") as file:
        file.write(DVC_IGNORE)


def _remove_package_files(path: Path) -> None:
    """Remove this package's source files from the dependencies in a dvc.yaml, since here the package is installed."""
    text = re.sub(r"^ *- pipeline/.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(re.sub(r", pipeline/[\w/.]+", "", text), encoding="utf-8")
