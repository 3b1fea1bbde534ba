"""The command `ditf spair`, with the flags of the published script."""

from pathlib import Path
from typing import Annotated

from ditf.cli.published_run import (
    FLUX,
    Block,
    Discard,
    EnsembleSize,
    ModelFamily,
    ModelFlags,
    ModelSource,
    Name,
    Timestep,
    model_entries,
    option,
    run,
)
from ditf.errors import UserError, exit_on_error

PAPER = {"block": 28, "timestep": 260}


@exit_on_error
def spair(
    dataset_path: Annotated[Path, option("dataset_path", "Folder of SPair-71k.")],
    save_path: Annotated[Path, option("save_path", "Folder for predictions, PCK tables and visualizations.")],
    dit_model: ModelFamily = FLUX,
    img_size: Annotated[tuple[int, int], option("img_size", "Pixels of the longer side, twice.")] = (640, 640),
    t: Timestep = None,
    k: Block = None,
    ensemble_size: EnsembleSize = None,
    cd: Discard = False,
    model: ModelSource = None,
    name: Name = None,
) -> None:
    """Evaluate semantic correspondence on SPair-71k: PCK by category.

    Adds entries named after the flags to params.yaml and runs them. Runs with other flags keep their results, and
    runs that share a model and its settings share features.

    \b
    Example:
      ditf spair --dataset_path SPair-71k --save_path out --img_size 640 640 --t 260 --k 28 --cd
    """
    if img_size[0] != img_size[1]:
        raise UserError(f"--img_size: {img_size[0]} {img_size[1]}: both are the longer side. Give the same size twice.")
    entries = model_entries(ModelFlags(dit_model, model, k, t, ensemble_size, cd, img_size[0]), PAPER)
    captions = "captions.json" if (dataset_path / "captions.json").exists() else None
    entries["datasets"] = {"type": "spair", "split": "test", "captions": captions}
    entries["tasks"] |= {"type": "correspondence", "score": {"alphas": [0.05, 0.1, 0.15]}}
    run(entries, {"datasets": "spair-test", "tasks": "spair"}, name, ("--dataset_path", dataset_path), save_path)
