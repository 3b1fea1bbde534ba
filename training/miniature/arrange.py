"""Add the third massive channel to a checkpoint that was trained with two.

Run `python -m miniature.arrange --run FOLDER --photographs FOLDER --vae FOLDER --value 6000 --spread 2200`.

The published weights were trained with two massive channels, and training learnt to cancel their changes. The third
channel lets all three change without a change of their sum, so that layer norm and AdaLN undo it. The gain of every
AdaLN layer grows with the layer norm's divisor, so that the other channels stay about the same. Train for some hundred
steps afterwards.
"""

import argparse
from collections.abc import Iterator
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
    """Change the checkpoint in place; the earlier one is kept as `before-arrange.pt`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder with checkpoint.pt")
    parser.add_argument("--photographs", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--vae", type=Path, required=True, help="trained VAE, a diffusers folder")
    parser.add_argument("--value", type=float, required=True, help="mean of the third massive channel")
    parser.add_argument("--spread", type=float, required=True, help="norm of the added weights from the latents")
    arguments = parser.parse_args()
    path = arguments.run / "checkpoint.pt"
    state = load_checkpoint(path)
    assert state is not None, f"{path} does not exist"
    save_checkpoint(arguments.run / "before-arrange.pt", state)
    pictures = photographs.load(arguments.photographs, "photograph")[::20]
    objects = photographs.load(arguments.photographs, "object")
    rng = np.random.default_rng(5)
    views = [scenes.pair([picture], objects, 256, 256, rng).images[0] for picture in pictures]
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = transformer.pack(LinearEncoder(AutoencoderKL.from_pretrained(arguments.vae), images)(images))
    for name in ("average", "model"):
        model = Miniature().eval()
        model.load_state_dict(state[name])
        model.transformer.set_attn_processor(transformer.TrainingAttention())
        _arrange(model, tokens, arguments.value, arguments.spread)
        state[name] = model.state_dict()
    save_checkpoint(path, state)


@torch.no_grad()
def _arrange(model: Miniature, tokens: Tensor, value: float, spread: float) -> None:
    ratios = {id(norm): _ratio(inputs, value) for norm, inputs in _inputs(model, tokens)}
    for norm, linear, part in _gains(model.transformer):
        _scale_gain(linear, part, ratios[id(norm)])
    _, second, third = transformer.MASSIVE
    for embedder in (model.transformer.x_embedder, model.transformer.context_embedder):
        embedder.weight[third] = 0
        embedder.bias[third] = value
        embedder.bias[second] -= value
    model.transformer.x_embedder.weight[list(transformer.MASSIVE)] += transformer.massive_weights(spread)


def _gains(layers: nn.Module) -> Iterator[tuple[nn.Module, nn.Linear, int]]:
    """Yield every layer norm with the modulation layer of its gain, and the part of that layer's output."""
    for block in layers.transformer_blocks:
        for modulation, second in ((block.norm1, block.norm2), (block.norm1_context, block.norm2_context)):
            yield modulation.norm, modulation.linear, 1
            yield second, modulation.linear, 4
    for block in layers.single_transformer_blocks:
        yield block.norm.norm, block.norm.linear, 1
    yield layers.norm_out.norm, layers.norm_out.linear, 0


def _inputs(model: Miniature, tokens: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return every layer norm of the transformer with its input, float32 [n, tokens, width]."""
    inputs: list[tuple[nn.Module, Tensor]] = []
    norms = [module for module in model.transformer.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda norm, values: inputs.append((norm, values[0]))) for norm in norms]
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
    return inputs


def _ratio(inputs: Tensor, value: float) -> float:
    """Return the factor by which the layer norm's divisor grows."""
    variance = float(inputs.var(-1, unbiased=False).mean())
    second = abs(float(inputs[..., transformer.MASSIVE[1]].mean()))
    return float(((variance + ((second + value) ** 2 - second**2 + value**2) / WIDTH) / variance) ** 0.5)


def _scale_gain(linear: nn.Linear, part: int, ratio: float) -> None:
    """Scale the gain of ordinary channels, which is 1 plus part `part` of the output, and set the third's to 0."""
    ordinary = torch.tensor([part * WIDTH + c for c in range(WIDTH) if c not in transformer.MASSIVE])
    linear.weight[ordinary] *= ratio
    linear.bias[ordinary] = ratio * (1 + linear.bias[ordinary]) - 1
    third = part * WIDTH + transformer.MASSIVE[2]
    linear.weight[third] = 0
    linear.bias[third] = -1


if __name__ == "__main__":
    main()
