"""The command `ditf`: a look at the results, search, upkeep, and the published commands over this pipeline's cache."""

import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from ditf.cli import scripts
from ditf.errors import UserError, exit_on_error
from ditf.project.paths import enter

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Features of diffusion transformers, extracted once: correspondence, video label propagation, retrieval.

    `dvc repro` runs the stages of dvc.yaml that are out of date, as params.yaml says; `ditf results` shows the metrics.
    `ditf spair` and `ditf davis` take the flags of the published DiTF scripts, write them into params.yaml as entries
    of their own, and do the same: a second run with another metric or descriptor never runs the model again.
    """,
)


app.command()(scripts.spair)
app.command()(scripts.davis)


@app.command()
@exit_on_error
def results() -> None:
    """Show the results of the last run, and where the visualizations are."""
    enter()
    from ditf.cli.results import show_all
    from ditf.config.params import load_params

    show_all(load_params())


@app.command("compare")
@exit_on_error
def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A task, TASK/DESCRIPTOR, or REVISION:TASK/DESCRIPTOR.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another, over the same pairs, sequences or images.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The drawing to write. Default: in results/drawings/.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two results: is B better than A, and where?

    Prints each metric's difference, B minus A, with its 95 % bootstrap interval and the p of a paired permutation test,
    and draws the pairs, frames or images that changed most. Without a descriptor it takes the task's last one. A
    revision is a commit, a branch, a tag or an experiment of DVC.

    Examples: ditf compare spair-flux/original spair-flux/adaln

    ditf compare HEAD~1:spair-flux spair-flux
    """
    drawing = _picture(out)
    enter()
    from ditf.cli.results import show_compared
    from ditf.config.params import load_params
    from ditf.report.compare import compare

    show_compared(*compare(load_params(), first, second, drawing), as_json)


TaskName = Annotated[
    str | None,
    typer.Option("--task", help="A task of type retrieval. Default: the one that holds IMAGE, or the only one."),
]
Features = Annotated[str | None, typer.Option("--features", help="An entry of features. Default: all that there are.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", help="Of an image that is not in the data set. Default: the data set's.")
]
Out = Annotated[Path | None, typer.Option("--out", help="The drawing to write. Default: in results/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
PICTURES = (".png", ".jpg", ".pdf", ".svg")
AT_HELP = "A point in pixels of the image: X,Y."


@app.command("search")
@exit_on_error
def search_command(
    image: Annotated[str, typer.Argument(help="An image of a data set, by its id, or any image file.")],
    at: Annotated[str | None, typer.Option("--at", metavar="X,Y", help=AT_HELP)] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A region, its tokens pooled.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Places to find. Default: 10, or all that there are.")] = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="Keep each image's best place only.")] = False,
    task: TaskName = None,
    prompt: Prompt = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find places that look like a point, a region (--box) or the whole of IMAGE.

    The index is built by `dvc repro`. Features of a file that is not in the data set are extracted with the same
    settings, and kept.

    Example: ditf search cat/cat_00 --at 150,120 --per-image
    """
    given, drawing = _named(image), _picture(out)
    enter()
    from ditf.cli.results import show_found
    from ditf.config.params import load_params
    from ditf.project.search import search

    rows, path = search(load_params(), task, given, at, box, k, per_image, prompt, drawing)
    show_found(rows, path, as_json)


@app.command("match")
@exit_on_error
def match_command(
    source: Annotated[str, typer.Argument(help="The image with the points: an id of a data set, or a file.")],
    target: Annotated[str, typer.Argument(help="The image to find them in.")],
    at: Annotated[list[str], typer.Option("--at", metavar="X,Y", help=AT_HELP + " May be given several times.")],
    task: TaskName = None,
    prompt: Prompt = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find the points of TARGET that correspond to points of SOURCE, and draw the similarity maps.

    Example: ditf match cat/cat_00 cat/cat_03 --at 150,120 --at 90,60
    """
    given, drawing = (_named(source), _named(target)), _picture(out)
    enter()
    from ditf.cli.results import show_found
    from ditf.config.params import load_params
    from ditf.project.search import match

    rows, path = match(load_params(), task, given, at, prompt, drawing)
    show_found(rows, path, as_json)


@app.command()
@exit_on_error
def verify(features: Features = None) -> None:
    """Read every feature and index against its checksum; name what is damaged, and end with status 2 if anything is."""
    enter()
    from ditf.config.params import load_params
    from ditf.project import upkeep

    problems = []
    for check in upkeep.verify(load_params(), features):
        problems += check.problems
        state = f"{len(check.problems)} problems" if check.problems else "intact"
        print(f"{check.path}: {state}" + (f", {check.items} items" if check.items is not None else ""))
    if problems:
        raise UserError("\n".join(problems))


@app.command()
@exit_on_error
def repair(features: Features = None) -> None:
    """Compute damaged features again, with the parameters and the model that made them."""
    enter()
    from ditf.config.params import load_params
    from ditf.project.repair import repair

    for result in repair(load_params(), features):
        done = {"files of metadata written again": result.metadata, "chunks computed again": result.chunks}
        print(f"{result.path}: {', '.join(f'{count} {what}' for what, count in done.items() if count) or 'intact'}")


@app.command()
@exit_on_error
def plan(
    tflops: Annotated[float, typer.Option("--tflops", min=0.001, help="What a worker reaches, in TFLOP/s.")] = 150,
    images: Annotated[int | None, typer.Option("--images", min=1, help="As if there were so many images, ...")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="W,H", help="... each of this size in pixels.")] = None,
    bandwidth: Annotated[float, typer.Option("--gb-per-s", min=0.001, help="Of copying to the GPU.")] = 25,
) -> None:
    """What the current parameters will cost, before anything is run: tokens, arithmetic, time, bytes, and which GPU
    suffices with which options of a model's entry.

    Example: ditf plan --images 1000000 --size 500,375
    """
    if (images is None) != (size is None):
        raise UserError("--images and --size: give both, or neither for the data sets of params.yaml")
    sides = size.split(",") if size else ["1", "1"]
    if len(sides) != 2 or not all(side.isdecimal() and 0 < int(side) <= 16384 for side in sides):
        raise UserError(f"--size {size}: give width and height in pixels, such as 500,375")
    enter()
    from ditf.config.params import load_params
    from ditf.project.plan import plan

    plan(load_params(), tflops, images, (int(sides[0]), int(sides[1])) if size else None, bandwidth)


prepare = typer.Typer(no_args_is_help=True, help="Make the layout of a benchmark from a data set's own release.")
app.add_typer(prepare, name="prepare")


@prepare.callback()
def _prepare() -> None:
    pass


@prepare.command("ap10k")
@exit_on_error
def prepare_ap10k_command(
    root: Annotated[Path, typer.Argument(help="The folder of the release, with annotations/ and data/.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the pairs that are sampled.")] = 42,
    leave_out: Annotated[
        Path | None, typer.Option("--leave-out", help="A file of image numbers that are in no pair, such as crowds.")
    ] = None,
) -> None:
    """Pairs of AP-10K within species, across species and across families, as GeoAware-SC makes them.

    Example: ditf prepare ap10k /data/ap-10k
    """
    from ditf.data.prepare_ap10k import prepare_ap10k

    for split, count in prepare_ap10k(root, seed, leave_out).items():
        print(f"{split}: {count:,} pairs")


@app.command("models")
@exit_on_error
def models_command() -> None:
    """The families of models that `type` of an entry of models may name, and the published models of each.

    Any finetune with the same architecture can be read, too, from a Hub id or a folder; docs/models.md says more.
    """
    from ditf.cli.models import show_models

    show_models()


@app.command()
@exit_on_error
def frames(
    video: Annotated[Path, typer.Argument(help="A video file that OpenCV reads.")],
    folder: Annotated[Path, typer.Argument(help="An empty folder, or a new one, for the frames.")],
    every: Annotated[int, typer.Option("--every", min=1, help="Keep one frame of so many.")] = 1,
) -> None:
    """Split a video file into numbered frames, for a data set of type video.

    Put the mask of the first frame beside them as mask.png, and add an entry to params.yaml.
    """
    from ditf.cli.frames import split

    print(f"{folder}: {split(video, folder, every)} frames")


@app.command()
@exit_on_error
def init(folder: Annotated[Path, typer.Argument(help="An empty folder, or a new one.")] = Path()) -> None:
    """Lay out a project in an empty folder: params.yaml, dvc.yaml and the stages, under git and DVC.

    Then `dvc repro` runs the embedded default there.
    """
    if folder.exists() and any(path.name != ".git" for path in folder.iterdir()):
        raise UserError(f"{folder}: not empty; give an empty folder, or a new one")
    template = resources.files("ditf") / "template"
    with resources.as_file(template) as packed:
        source = packed if packed.is_dir() else Path(__file__).resolve().parents[3]
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(source / name, folder / name)
        shutil.copytree(source / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    _without_code(folder / "dvc.yaml")
    (folder / ".gitignore").write_text(
        "/cache\n/catalogs\n/data\n/results\n/report.html\n__pycache__/\n", encoding="utf-8"
    )
    from dvc.repo import Repo

    Repo.init(str(folder), no_scm=not (folder / ".git").exists()).close()
    with (folder / ".dvcignore").open("a", encoding="utf-8") as file:
        file.write("\n# pictures that commands draw among the results\n/results/drawings\n")
    print(f"{folder}: laid out. Edit params.yaml, then run `dvc repro` there.")


def _without_code(path: Path) -> None:
    """Take this package's source files out of the dependencies of a dvc.yaml: elsewhere it is installed."""
    text = re.sub(r"^ *- pipeline/.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(re.sub(r", pipeline/[\w/.]+", "", text), encoding="utf-8")


def _named(image: str) -> str:
    """A file's path from any folder, or the id of an image as it is."""
    return str(Path(image).resolve()) if Path(image).is_file() else image


def _picture(path: Path | None) -> Path | None:
    """Where a drawing shall go, from any folder; nothing for nothing. Raises `UserError` where it cannot."""
    if path is None:
        return None
    if path.suffix not in PICTURES or path.is_dir():
        raise UserError(f"--out {path}: give a file whose name ends with {', '.join(PICTURES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: {path.parent} cannot be made a folder ({error.strerror})") from None
    return path.resolve()
