"""The command `ditf`: the published commands over this pipeline's cache, and a look at the results."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.params import load_params
from stages import HUB_FLUX, RESULTS, guard, report

MODEL_NAMES = {"flux"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Features of diffusion transformers, extracted once, for correspondence and video label propagation.

    `ditf spair` and `ditf davis` take the flags of the published DiTF scripts, write them into params.yaml, and
    run the stages of dvc.yaml that are out of date: a second run with another metric or descriptor never runs
    FLUX again.

    `dvc repro` does the same from params.yaml as it stands; `ditf results` shows the figures.
    """,
)


def _option(name: str, text: str) -> Any:
    """An option of the published scripts, with underscores or hyphens."""
    return typer.Option(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), help=text)


Source = Annotated[str, _option("model", "A Hub id or a local diffusers folder of FLUX.")]
Timestep = Annotated[int, _option("t", "Timestep, 0..1000.")]
Block = Annotated[int, _option("k", "Block whose input is the feature; 0..18 double, 19..56 single.")]
Ensemble = Annotated[int, _option("ensemble_size", "Noise draws averaged.")]
Discard = Annotated[bool, typer.Option("--cd", help="Discard the massive channels before the AdaLN.")]


@app.command()
def spair(
    dataset_path: Annotated[Path, _option("dataset_path", "SPair-71k's folder.")],
    save_path: Annotated[Path, _option("save_path", "Folder for predictions, PCK tables and pictures.")],
    dit_model: Annotated[str, _option("dit_model", "The kind of model: flux.")] = "flux",
    img_size: Annotated[tuple[int, int], _option("img_size", "Length of the longer side, twice.")] = (640, 640),
    t: Timestep = 260,
    k: Block = 28,
    ensemble_size: Ensemble = 8,
    cd: Discard = False,
    model: Source = HUB_FLUX,
) -> None:
    """Semantic correspondence on SPair-71k: PCK by category.

    Example: ditf spair --dataset_path SPair-71k --save_path out --img_size 640 640 --t 260 --k 28 --cd
    """

    def work() -> None:
        if dit_model not in MODEL_NAMES:
            raise UserError(f"--dit_model: {dit_model!r} is not known; use flux")
        if img_size[0] != img_size[1]:
            raise UserError(f"--img_size: {img_size[0]} {img_size[1]}; both are the longer side, so they are equal")
        root, folder = _folder("--dataset_path", dataset_path), save_path.resolve()
        captions = "captions.json" if (dataset_path / "captions.json").exists() else None
        values = _extraction(root, img_size[0], t, k, ensemble_size, cd) | {"captions": captions}
        _reproduce(model, "spair", values, ["pck", "pictures@spair"])
        _deliver("spair", folder)
        report.show_pck()

    guard(work)


@app.command()
def davis(
    data_path: Annotated[Path, _option("data_path", "DAVIS-2017's folder.")],
    output_dir: Annotated[Path, _option("output_dir", "Folder for masks, J&F tables and pictures.")],
    img_size: Annotated[int, _option("img_size", "Length of the shorter side.")] = 960,
    t: Timestep = 90,
    k: Block = 24,
    ensemble_size: Ensemble = 8,
    cd: Discard = False,
    temperature: Annotated[float, _option("temperature", "Of the weights exp(similarity / temperature).")] = 0.1,
    n_last_frames: Annotated[int, _option("n_last_frames", "Frames of context besides the first.")] = 7,
    size_mask_neighborhood: Annotated[
        int, _option("size_mask_neighborhood", "Sources lie within +- this many tokens; 0: anywhere.")
    ] = 12,
    topk: Annotated[int, _option("topk", "Sources kept for each token.")] = 5,
    model: Source = HUB_FLUX,
) -> None:
    """Video segmentation on DAVIS-2017 by label propagation: J and F.

    Example: ditf davis --data_path DAVIS --output_dir out --img_size 960 --k 24 --t 90 --cd --ensemble_size 8
    """

    def work() -> None:
        root, folder = _folder("--data_path", data_path), output_dir.resolve()
        values = _extraction(root, img_size, t, k, ensemble_size, cd) | {
            "temperature": temperature,
            "n_last_frames": n_last_frames,
            "size_mask_neighborhood": size_mask_neighborhood,
            "topk": topk,
        }
        _reproduce(model, "davis", values, ["jf", "pictures@davis"])
        _deliver("davis", folder)
        report.show_jf()

    guard(work)


@app.command()
def results() -> None:
    """Show the figures and pictures of the last run."""

    def work() -> None:
        os.chdir(_project())
        report.show_all(load_params())

    guard(work)


Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="spair, davis or folder. Default: the one that holds IMAGE, or the only one."),
]
OneOf = Annotated[str | None, typer.Option("--dataset", help="spair, davis or folder. Default: all there are.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", help="Of an image that is not in the data set. Default: the data set's.")
]
Out = Annotated[Path | None, typer.Option("--out", help="The picture to write. Default: in results/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
AT_HELP = "A point in pixels of the image: X,Y."


@app.command("search")
def search_command(
    image: Annotated[str, typer.Argument(help="An image of the data set, by its id, or any image file.")],
    at: Annotated[str | None, typer.Option("--at", metavar="X,Y", help=AT_HELP)] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A region, its tokens pooled.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Places to find.")] = 10,
    per_image: Annotated[bool, typer.Option("--per-image", help="Keep each image's best place alone.")] = False,
    dataset: Dataset = None,
    prompt: Prompt = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find places that look like a point, a region (--box) or the whole of IMAGE.

    The index is built by `dvc repro`. Features of a file that is not in the data set are extracted with the
    settings of the data set's, and kept.

    Example: ditf search cat/cat_00 --at 150,120 --per-image
    """

    def work() -> None:
        given = _named(image)
        picture = out.resolve() if out else None
        os.chdir(_project())
        from stages import search

        rows, path = search.search(load_params(), dataset, given, at, box, k, per_image, prompt, picture)
        report.show_rows(rows, path, as_json)

    guard(work)


@app.command("match")
def match_command(
    source: Annotated[str, typer.Argument(help="The image with the points: an id of the data set, or a file.")],
    target: Annotated[str, typer.Argument(help="The image to find them in.")],
    at: Annotated[list[str], typer.Option("--at", metavar="X,Y", help=AT_HELP + " May be given several times.")],
    dataset: Dataset = None,
    prompt: Prompt = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find the points of TARGET that correspond to points of SOURCE, and draw the similarity maps.

    Example: ditf match cat/cat_00 cat/cat_03 --at 150,120 --at 90,60
    """

    def work() -> None:
        given = _named(source), _named(target)
        picture = out.resolve() if out else None
        os.chdir(_project())
        from stages import search

        rows, path = search.match(load_params(), dataset, given, at, prompt, picture)
        report.show_rows(rows, path, as_json)

    guard(work)


@app.command()
def verify(dataset: OneOf = None) -> None:
    """Read every feature against its checksum; name what is damaged, and end with status 2 if anything is."""

    def work() -> None:
        os.chdir(_project())
        from stages import upkeep

        upkeep.verify(dataset)

    guard(work)


@app.command()
def repair(dataset: OneOf = None) -> None:
    """Compute damaged features again, with the parameters and the model that made them."""

    def work() -> None:
        os.chdir(_project())
        from stages import upkeep

        upkeep.repair(load_params(), dataset)

    guard(work)


@app.command()
def plan(
    tflops: Annotated[float, typer.Option("--tflops", min=0.001, help="What a worker reaches, in TFLOP/s.")] = 150,
    images: Annotated[int | None, typer.Option("--images", min=1, help="As if there were so many images, ...")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="W,H", help="... each of this size in pixels.")] = None,
) -> None:
    """What the current parameters will cost, before anything is run: tokens, arithmetic, time, bytes, memory.

    Example: ditf plan --images 1000000 --size 500,375
    """

    def work() -> None:
        if (images is None) != (size is None):
            raise UserError("--images and --size: give both, or neither for the data sets of params.yaml")
        sides = size.split(",") if size else ["1", "1"]
        if len(sides) != 2 or not all(side.isdecimal() and 0 < int(side) <= 16384 for side in sides):
            raise UserError(f"--size {size}: wanted width and height in pixels, such as 500,375")
        os.chdir(_project())
        from stages import upkeep

        upkeep.plan(load_params(), tflops, images, (int(sides[0]), int(sides[1])) if size else None)

    guard(work)


def _named(image: str) -> str:
    """A file's path from any folder, or the id of an image as it is."""
    return str(Path(image).resolve()) if Path(image).is_file() else image


def _folder(flag: str, path: Path) -> str:
    """How params.yaml names a folder: relative within the project, else absolute."""
    if not path.is_dir():
        raise UserError(f"{flag}: {path} is no folder")
    found = path.resolve()
    return str(found.relative_to(_project()) if found.is_relative_to(_project()) else found)


def _extraction(root: str, img_size: int, t: int, k: int, ensemble_size: int, cd: bool) -> dict[str, Any]:
    return {
        "root": root,
        "img_size": img_size,
        "timestep": t,
        "blocks": [k],
        "block": k,
        "ensemble_size": ensemble_size,
        "descriptors": ["adaln+discard" if cd else "adaln"],
    }


def _project() -> Path:
    """The project's folder: the one around the current folder, or the one that this program lies in."""
    here = Path.cwd()
    for place in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (place / "dvc.yaml").exists() and (place / "params.yaml").exists():
            return place
    raise UserError(f"{here}: no dvc.yaml and params.yaml here or above; run inside the project's folder")


def _reproduce(model: str, dataset: str, values: dict[str, Any], targets: list[str]) -> None:
    """Write parameters into params.yaml, keeping its comments, and bring `targets` up to date."""
    source = _folder("--model", Path(model)) if Path(model).is_dir() else model
    os.chdir(_project())
    path, yaml = Path("params.yaml"), YAML()
    yaml.preserve_quotes = True
    before = path.read_text(encoding="utf-8")
    load_params()
    document = yaml.load(before)
    document["model"]["source"] = source
    document[dataset].update(values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
    try:
        load_params()
    except UserError:
        path.write_text(before, encoding="utf-8")
        raise
    binaries = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    status = subprocess.run([sys.executable, "-m", "dvc", "repro", *targets], env=environment).returncode
    if status:
        raise UserError("a stage failed, as told above; what was finished is kept, and the next run goes on from it")


def _deliver(dataset: str, folder: Path) -> None:
    """Copy the results of a data set into a folder of the user's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted((RESULTS / dataset).iterdir()):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(path, folder / path.name)
    except FileExistsError:
        raise UserError(f"{folder}: not a folder") from None
