"""The commands with the flags of the published scripts, `ditf spair` and `ditf davis`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ditf.errors import UserError, exit_on_error

FLUX = "flux"  # the family that the published scripts know; their defaults are its


def _option(name: str, text: str) -> Any:
    """An option of the published scripts, with underscores or hyphens."""
    return typer.Option(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), help=text)


Source = Annotated[
    str | None,
    _option("model", "A Hub id, a folder, or tiny-SEED. Default: the first that `ditf models` lists."),
]
Kind = Annotated[str, _option("dit_model", "The family of the model; see `ditf models`.")]
Timestep = Annotated[int | None, _option("t", "Timestep. Default: the paper's for FLUX, or the family's own.")]
Block = Annotated[int | None, _option("k", "Block. Default: the paper's for FLUX, or the family's own.")]
Ensemble = Annotated[int | None, _option("ensemble_size", "Noise samples averaged. Default: the family's own.")]
Discard = Annotated[bool, typer.Option("--cd", help="Discard the massive channels before the AdaLN.")]


@exit_on_error
def spair(
    dataset_path: Annotated[Path, _option("dataset_path", "SPair-71k's folder.")],
    save_path: Annotated[Path, _option("save_path", "Folder for predictions, PCK tables and visualizations.")],
    dit_model: Kind = FLUX,
    img_size: Annotated[tuple[int, int], _option("img_size", "Length of the longer side, twice.")] = (640, 640),
    t: Timestep = None,
    k: Block = None,
    ensemble_size: Ensemble = None,
    cd: Discard = False,
    model: Source = None,
) -> None:
    """Semantic correspondence on SPair-71k: PCK by category.

    Example: ditf spair --dataset_path SPair-71k --save_path out --img_size 640 640 --t 260 --k 28 --cd
    """
    if img_size[0] != img_size[1]:
        raise UserError(f"--img_size: {img_size[0]} {img_size[1]}; both are the longer side, so they are equal")
    captions = "captions.json" if (dataset_path / "captions.json").exists() else None
    dataset = {"type": "spair", "split": "test", "captions": captions}
    seen = seen_by(dit_model, model, (k, t, ensemble_size), (28, 260), cd, img_size[0])
    task = {"type": "correspondence", "predict": seen.predict, "score": {"alphas": [0.05, 0.1, 0.15]}}
    _published("spair-command", "--dataset_path", dataset_path, save_path, seen, dataset, task)


@exit_on_error
def davis(
    data_path: Annotated[Path, _option("data_path", "DAVIS's folder.")],
    output_dir: Annotated[Path, _option("output_dir", "Folder for masks, J&F tables and visualizations.")],
    dit_model: Kind = FLUX,
    img_size: Annotated[int, _option("img_size", "Length of the shorter side.")] = 960,
    t: Timestep = None,
    k: Block = None,
    ensemble_size: Ensemble = None,
    cd: Discard = False,
    temperature: Annotated[float, _option("temperature", "Of the weights exp(similarity / temperature).")] = 0.1,
    n_last_frames: Annotated[int, _option("n_last_frames", "Frames of context besides the first.")] = 7,
    size_mask_neighborhood: Annotated[
        int, _option("size_mask_neighborhood", "Sources are within +- this many tokens; 0: anywhere.")
    ] = 12,
    topk: Annotated[int, _option("topk", "Sources kept for each token.")] = 5,
    year: Annotated[int, _option("year", "2017, or 2016 for grey masks of one object.")] = 2017,
    model: Source = None,
) -> None:
    """Video segmentation on DAVIS by label propagation: J and F.

    Example: ditf davis --data_path DAVIS --output_dir out --img_size 960 --k 24 --t 90 --cd --ensemble_size 8
    """
    seen = seen_by(dit_model, model, (k, t, ensemble_size), (24, 90), cd, img_size)
    predict = seen.predict | {
        "temperature": temperature,
        "n_last_frames": n_last_frames,
        "size_mask_neighborhood": size_mask_neighborhood,
        "topk": topk,
    }
    dataset, task = {"type": "davis", "year": year}, {"type": "propagation", "predict": predict, "score": {}}
    _published("davis-command", "--data_path", data_path, output_dir, seen, dataset, task)


@dataclass(frozen=True)
class ModelArguments:
    """What a command says of the model: its entry, that of the features, and how a task reads them."""

    model: dict[str, Any]
    features: dict[str, Any]
    predict: dict[str, Any]


def seen_by(
    family: str,
    source: str | None,
    given: tuple[int | None, int | None, int | None],
    paper: tuple[int, int],
    discard: bool,
    img_size: int,
) -> ModelArguments:
    """The model of a command.

    Args:
        family, source: of the model; the family's first published one unless given.
        given: block, timestep, noise samples; None for what is the default.
        paper: block and timestep of the published script.
        discard: the massive channels.
        img_size: in pixels.
    """
    from ditf.backbones.base import Backbone
    from ditf.registry import find_type

    kind = find_type(Backbone, family)
    if source is None:
        if not kind.published:
            raise UserError(f"--model: give a Hub id or a folder; none is known of {family}")
        source = next(iter(kind.published))
    elif Path(source).is_dir():
        source = str(Path(source).resolve())
    block, timestep, samples = given
    features: dict[str, Any] = {"img_size": img_size}
    if family == FLUX:
        block, timestep = (paper[0] if block is None else block), (paper[1] if timestep is None else timestep)
    elif block is None:
        block = kind.model_fields["blocks"].default[0]
    for flag, name, value in (("--t", "timestep", timestep), ("--ensemble_size", "ensemble_size", samples)):
        if value is not None and name not in kind.model_fields:
            raise UserError(f"{flag}: models of type {family} have no {name}")
        if value is not None:
            features[name] = value
    modulated = "adaln+discard" in kind.descriptors
    if discard and not modulated:
        raise UserError(f"--cd: models of type {family} have no AdaLN")
    descriptor = "original" if not modulated else "adaln+discard" if discard else "adaln"
    model = {"type": family, "source": source, "dtype": "auto"}
    return ModelArguments(model, features | {"blocks": [block]}, {"block": block, "descriptors": [descriptor]})


def _published(
    name: str, flag: str, root: Path, out: Path, seen: ModelArguments, dataset: dict[str, Any], task: dict[str, Any]
) -> None:
    """Run a published command as entries of its own, and show what came out."""
    from ditf.cli import published, results

    out = out.resolve()
    dataset["root"] = published.folder(flag, root)
    place = Path(seen.model["source"])
    if place.is_absolute() and place.is_relative_to(Path.cwd()):
        seen.model["source"] = str(place.relative_to(Path.cwd()))
    published.reproduce(name, seen.model, dataset, seen.features, task, out)
    results.print_task(name)
