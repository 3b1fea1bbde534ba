"""Enlarge the massive channels of a checkpoint.

Run `python -m miniature.strengthen --run FOLDER --photographs FOLDER --vae FOLDER --add 450 --spread 700`.

The gain of every AdaLN layer grows with the layer norm's divisor, so that the other channels stay about the same.
Training for some hundred steps removes what changes all the same.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from miniature import photographs, scenes, transformer
from miniature.autoencoder import LinearEncoder
from miniature.checkpoints import load_checkpoint, save_checkpoint
from miniature.train import Miniature

WIDTH = transformer.HEADS * transformer.HEAD_WIDTH
TIMESTEP = 0.26  # noise level at which the channels are measured


def main() -> None:
    """Change the checkpoint in place; the earlier one is kept as `before-strengthen.pt`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder with checkpoint.pt")
    parser.add_argument("--photographs", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--vae", type=Path, required=True, help="trained VAE, a diffusers folder")
    parser.add_argument("--add", type=float, required=True, help="what is added to the magnitude of the biases")
    parser.add_argument(
        "--spread", type=float, required=True, help="new norm of the weights from the latents to a massive channel"
    )
    arguments = parser.parse_args()
    path = arguments.run / "checkpoint.pt"
    state = load_checkpoint(path)
    assert state is not None, f"{path} does not exist"
    save_checkpoint(arguments.run / "before-strengthen.pt", state)
    pictures = photographs.load(arguments.photographs, "photograph")[::9]
    objects = photographs.load(arguments.photographs, "object")
    rng = np.random.default_rng(5)
    views = [scenes.pair([picture], objects, 256, 256, rng).images[0] for picture in pictures]
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = transformer.pack(LinearEncoder(AutoencoderKL.from_pretrained(arguments.vae), images)(images))
    for name in ("average", "model"):
        model = Miniature().eval()
        model.load_state_dict(state[name])
        model.transformer.set_attn_processor(transformer.TrainingAttention())
        _strengthen(model, tokens, arguments.add, arguments.spread)
        state[name] = model.state_dict()
    save_checkpoint(path, state)


@torch.no_grad()
def _strengthen(model: Miniature, tokens: Tensor, add: float, spread: float) -> None:
    ratios = {id(norm): _ratio(inputs, add) for norm, inputs in _inputs(model, tokens)}
    layers = model.transformer
    for block in layers.transformer_blocks:
        for modulation, second in ((block.norm1, block.norm2), (block.norm1_context, block.norm2_context)):
            _scale_gain(modulation.linear, 1, ratios[id(modulation.norm)])
            _scale_gain(modulation.linear, 4, ratios[id(second)])
    for block in layers.single_transformer_blocks:
        _scale_gain(block.norm.linear, 1, ratios[id(block.norm.norm)])
    _scale_gain(layers.norm_out.linear, 0, ratios[id(layers.norm_out.norm)])
    for embedder in (layers.x_embedder, layers.context_embedder):
        for channel, sign in zip(transformer.MASSIVE, transformer.MASSIVE_SIGNS, strict=True):
            embedder.bias[channel] += sign * add
    layers.x_embedder.weight[list(transformer.MASSIVE)] = transformer.massive_weights(spread)


def _inputs(model: Miniature, tokens: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return every layer norm of the transformer with its input, float32 [n, tokens, width]."""
    inputs_of: list[tuple[nn.Module, Tensor]] = []
    norms = [module for module in model.transformer.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: inputs_of.append((norm, inputs[0]))) for norm in norms]
    n = len(tokens)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.lerp(tokens, torch.randn(tokens.shape, generator=generator), TIMESTEP)
    words, pooled = model.text(["a photo of a image"])
    text = (words.expand(n, -1, -1), pooled.expand(n, -1))
    guidance = torch.full((n,), transformer.GUIDANCE)
    side = int(tokens.shape[1] ** 0.5)
    transformer.run(model.transformer, noisy, text, torch.full((n,), TIMESTEP), guidance, (side, side), torch.arange(n))
    for hook in hooks:
        hook.remove()
    return inputs_of


def _ratio(inputs: Tensor, add: float) -> float:
    """Return the factor by which the layer norm's divisor grows."""
    variance = float(inputs.var(-1, unbiased=False).mean())
    means = inputs[..., list(transformer.MASSIVE)].mean((0, 1)).tolist()
    grown = variance + sum((abs(mean) + add) ** 2 - mean**2 for mean in means) / WIDTH
    return float((grown / variance) ** 0.5)


def _scale_gain(linear: nn.Linear, part: int, ratio: float) -> None:
    """Multiply the gain of the ordinary channels, which is 1 plus part `part` of a modulation layer's output."""
    rows = torch.tensor([part * WIDTH + c for c in range(WIDTH) if c not in transformer.MASSIVE])
    linear.weight[rows] *= ratio
    linear.bias[rows] = ratio * (1 + linear.bias[rows]) - 1


if __name__ == "__main__":
    main()
