"""Write a checkpoint as a FLUX pipeline: `python -m miniature.export --run FOLDER --vae FOLDER`."""

import argparse
import json
import shutil
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from miniature import card, transformer
from miniature.checkpoints import load_checkpoint, read_log
from miniature.train import Miniature

PACKAGED = Path(__file__).parents[2] / "pipeline/ditf/backbones/miniature"  # what `source: miniature` names
LIMIT = 16_000_000  # bytes of all weights
RESIDUAL_SCALE = 1 / 8  # so that massive channels fit into a store's float16


def main() -> None:
    """Write the pipeline in float16, its model card and the loss curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder with checkpoint.pt and log.jsonl")
    parser.add_argument("--vae", type=Path, required=True, help="trained VAE, a diffusers folder")
    parser.add_argument("--output", type=Path, default=PACKAGED, help="folder to write; replaced if it exists")
    parser.add_argument("--figures", type=Path, help="JSON file with measured figures for the model card")
    arguments = parser.parse_args()
    state = load_checkpoint(arguments.run / "checkpoint.pt")
    assert state is not None, f"{arguments.run}/checkpoint.pt does not exist"
    model = Miniature().eval()
    model.load_state_dict(state["average"])
    transformer.scale_residual(model.transformer, RESIDUAL_SCALE)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL.from_pretrained(arguments.vae),
        text_encoder=model.text.clip,
        tokenizer=model.text.letters,
        text_encoder_2=model.text.t5,
        tokenizer_2=model.text.words,
        transformer=model.transformer,
    )
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            largest = max(tensor.abs().max().item() for tensor in component.state_dict().values() if tensor.numel())
            assert largest < torch.finfo(torch.float16).max, f"{name}: a weight of {largest} does not fit float16"
    pipeline.to(torch.float16)
    if arguments.output.exists():
        shutil.rmtree(arguments.output)
    pipeline.save_pretrained(arguments.output)
    _shorten_configurations(arguments.output)
    size = sum(file.stat().st_size for file in arguments.output.rglob("*.safetensors"))
    assert size <= LIMIT, f"{arguments.output}: weights have {size} bytes, more than {LIMIT}"
    _draw_losses(arguments.run / "log.jsonl", arguments.output / "losses.png")
    figures = json.loads(arguments.figures.read_text(encoding="utf-8")) if arguments.figures else {}
    note = arguments.run / "note.md"
    particular = note.read_text(encoding="utf-8").strip() if note.exists() else ""
    text = card.write(state["step"], size, figures, particular, arguments.run / "log.jsonl")
    (arguments.output / "README.md").write_text(text, encoding="utf-8")
    print(
        f"{arguments.output}: {size / 1e6:.2f} MB of weights, step {state['step']}, diffusers {diffusers.__version__}"
    )


def _shorten_configurations(folder: Path) -> None:
    """Remove paths of this machine from the configurations."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _draw_losses(log: Path, path: Path) -> None:
    records = read_log(log)
    steps = np.array([record["step"] for record in records])
    figure, axes = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    titles = {
        "flow": "flow matching",
        "divergence": "KL of similarities",
        "squared": "squared difference of similarities",
        "match": "matching of two views",
    }
    width = max(1, len(steps) // 60)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        values = np.array([record[name] for record in records])
        kept = len(values) // width * width
        smooth = values[:kept].reshape(-1, width).mean(1)
        axis.plot(steps, values, color="0.85", linewidth=0.5)
        axis.plot(steps[:kept].reshape(-1, width).mean(1), smooth, color="tab:blue")
        axis.set_ylim(smooth.min() * 0.7, np.quantile(smooth, 0.97) * 1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
