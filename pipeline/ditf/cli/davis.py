"""The command `ditf davis`, with the flags of the published script."""

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
from ditf.errors import exit_on_error

PAPER = {"block": 24, "timestep": 90}


@exit_on_error
def davis(
    data_path: Annotated[Path, option("data_path", "Folder of DAVIS.")],
    output_dir: Annotated[Path, option("output_dir", "Folder for masks, J&F tables and visualizations.")],
    dit_model: ModelFamily = FLUX,
    img_size: Annotated[int, option("img_size", "Length of the shorter side in pixels.")] = 960,
    t: Timestep = None,
    k: Block = None,
    ensemble_size: EnsembleSize = None,
    cd: Discard = False,
    temperature: Annotated[float, option("temperature", "Temperature of the softmax over similarities.")] = 0.1,
    n_last_frames: Annotated[int, option("n_last_frames", "Number of context frames besides the first.")] = 7,
    size_mask_neighborhood: Annotated[
        int, option("size_mask_neighborhood", "Largest distance to a source, in tokens. 0: no limit.")
    ] = 12,
    topk: Annotated[int, option("topk", "Sources kept for each token.")] = 5,
    year: Annotated[int, option("year", "2017, or 2016 for grey masks of one object.")] = 2017,
    model: ModelSource = None,
    name: Name = None,
) -> None:
    """Evaluate video object segmentation on DAVIS: J and F.

    Adds entries named after the flags to params.yaml and runs them. Runs with other flags keep their results, and
    runs that share a model and its settings share features.

    \b
    Example:
      ditf davis --data_path DAVIS --output_dir out --img_size 960 --k 24 --t 90 --cd --ensemble_size 8
    """
    entries = model_entries(ModelFlags(dit_model, model, k, t, ensemble_size, cd, img_size), PAPER)
    entries["datasets"] = {"type": "davis", "year": year}
    entries["tasks"] |= {"type": "propagation", "score": {}}
    entries["tasks"]["predict"] |= {
        "temperature": temperature,
        "n_last_frames": n_last_frames,
        "size_mask_neighborhood": size_mask_neighborhood,
        "topk": topk,
    }
    run(entries, {"datasets": f"davis-{year}", "tasks": "davis"}, name, ("--data_path", data_path), output_dir)
