"""Train the transformer: `python -m miniature.train --photographs FOLDER --vae FOLDER --output FOLDER`."""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.random import Generator
from torch import Tensor, nn
from tqdm import tqdm

from miniature import losses, photographs, scenes, text, transformer
from miniature.autoencoder import NOISE, LinearEncoder
from miniature.checkpoints import load_checkpoint, save_checkpoint
from miniature.teacher import Teacher

ACROSS = 768  # tokens of a step that are compared across all images
WEIGHTS = {"flow": 1.0, "divergence": 1.0, "squared": 5.0, "match": 0.5}
WARM_UP = 100  # steps
DISCARDED_SHARE = 0.6  # share of the steps that align tokens with channel discard; the others align them without


class Miniature(nn.Module):
    """The trained components: transformer and text encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = transformer.build()
        self.text = text.TextEncoders(photograph.caption for photograph in photographs.read_list())


@dataclass(frozen=True)
class Batch:
    """Views and everything random in one step.

    Attributes:
        images: Views in 0..1, float32 [pairs * 2, 3, h, w]; both views of a pair follow each other.
        targets: Known positions in the second views, float32 [pairs, tokens, 2].
        prompts: Prompt of each pair.
        sigma: Noise level of each pair, float32 [pairs].
        guidance: Guidance scale of each pair, float32 [pairs].
        generator: Source of further randomness.
    """

    images: Tensor
    targets: Tensor
    prompts: list[str]
    sigma: Tensor
    guidance: Tensor
    generator: torch.Generator


def main() -> None:
    """Train, or resume from the last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--vae", type=Path, required=True, help="trained VAE, a diffusers folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and the log")
    parser.add_argument("--steps", type=int, default=40000, help="step at which training ends")
    parser.add_argument("--decay", type=int, default=4000, help="final steps in which the learning rate falls to zero")
    parser.add_argument("--tokens", type=int, default=1536, help="tokens of all views in a step")
    parser.add_argument(
        "--rate", type=float, default=1e-3, help="highest learning rate of AdamW; Muon takes twice as much"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=150, help="seconds between checkpoints")
    arguments = parser.parse_args()
    photographs.check(arguments.photographs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    backgrounds = photographs.load(arguments.photographs, "photograph")
    objects = photographs.load(arguments.photographs, "object")

    torch.manual_seed(arguments.seed)
    model = Miniature()
    model.transformer.set_attn_processor(transformer.TrainingAttention())
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizers = _optimizers(model, arguments.rate)
    examples = _calibration_images(backgrounds, objects, arguments.seed)
    encoder = LinearEncoder(AutoencoderKL.from_pretrained(arguments.vae), examples * 2 - 1)
    teacher = Teacher()
    teacher.calibrate(examples)
    path = arguments.output / "checkpoint.pt"
    state = load_checkpoint(path)
    start = 0
    if state:
        model.load_state_dict(state["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state[name])
        average, start = state["average"], state["step"]

    def prepare(step: int) -> Batch:
        return _batch(backgrounds, objects, arguments.tokens, np.random.default_rng([arguments.seed, 3, step]))

    log = arguments.output / "log.jsonl"
    saved = time.monotonic()
    progress = tqdm(range(start, arguments.steps), initial=start, total=arguments.steps, mininterval=5)
    with ThreadPoolExecutor(1) as worker, log.open("a", encoding="utf-8", buffering=1) as file:
        coming = worker.submit(prepare, start)
        for step in progress:
            batch = coming.result()
            coming = worker.submit(prepare, step + 1)
            rate = arguments.rate * _schedule(step, arguments.steps, arguments.decay)
            for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
                group["lr"] = rate * group["factor"]
            with torch.autocast("cpu", torch.bfloat16):
                parts = _losses(model, encoder, teacher, batch)
            total = sum((WEIGHTS[name] * value for name, value in parts.items()), torch.zeros(()))
            model.zero_grad()
            total.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers.values():
                optimizer.step()
            _update_average(average, model, step)
            record: dict[str, Any] = {name: round(value.item(), 4) for name, value in parts.items()}
            record |= {"step": step, "norm": round(norm.item(), 3), "rate": rate, "time": round(time.time())}
            file.write(json.dumps(record) + "\n")
            progress.set_postfix({name: f"{record[name]:.3f}" for name in parts}, refresh=False)
            if time.monotonic() - saved > arguments.save_every or step + 1 == arguments.steps:
                state = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
                save_checkpoint(path, state | {"model": model.state_dict(), "average": average, "step": step + 1})
                saved = time.monotonic()


def _optimizers(model: Miniature, rate: float) -> dict[str, torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks, and AdamW for all other parameters."""
    blocks = [*model.transformer.transformer_blocks, *model.transformer.single_transformer_blocks]
    matrices = {
        id(parameter): parameter
        for block in blocks
        for name, parameter in block.named_parameters()
        if parameter.ndim == 2 and "norm" not in name
    }
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    muon = torch.optim.Muon(matrices.values(), lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    muon.param_groups[0]["factor"], adamw.param_groups[0]["factor"] = 2.0, 1.0
    return {"muon": muon, "adamw": adamw}


def _schedule(step: int, steps: int, decay: int) -> float:
    """Return the factor of the learning rate: a warm-up, a constant part and a linear decay."""
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, (steps - step) / decay)


def _update_average(average: dict[str, Tensor], model: nn.Module, step: int) -> None:
    share = max(0.002, 9 / (10 + step))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, share)


def _calibration_images(
    backgrounds: list[photographs.Picture], objects: list[photographs.Picture], seed: int
) -> Tensor:
    rng = np.random.default_rng([seed, 4])
    views = [scenes.pair(backgrounds, objects, 256, 256, rng).images for _ in range(40)]
    return _to_tensor(np.concatenate(views))


def _to_tensor(images: Any) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _batch(
    backgrounds: list[photographs.Picture], objects: list[photographs.Picture], tokens: int, rng: Generator
) -> Batch:
    pairs = scenes.batch(backgrounds, objects, tokens, rng)
    n = len(pairs)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    low = rng.uniform(0.03, 0.35, n)
    sigma = np.where(rng.random(n) < 0.6, low, 1 / (1 + np.exp(-rng.standard_normal(n))))
    guidance = np.where(rng.random(n) < 0.75, transformer.GUIDANCE, rng.uniform(1, 6, n))
    return Batch(
        _to_tensor(np.concatenate([pair.images for pair in pairs])),
        torch.from_numpy(np.stack([pair.targets for pair in pairs])),
        [text.prompt(pair.caption, generator) for pair in pairs],
        torch.from_numpy(sigma).float(),
        torch.from_numpy(guidance).float(),
        generator,
    )


def _losses(model: Miniature, encoder: LinearEncoder, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        latents = encoder(batch.images * 2 - 1)
        theirs = teacher(batch.images)
    grid = (latents.shape[2] // 2, latents.shape[3] // 2)
    clean = transformer.pack(latents)
    noise = torch.randn(clean.shape, generator=batch.generator)
    clean = clean + NOISE * torch.randn(clean.shape, generator=batch.generator)
    sigma = batch.sigma.repeat_interleave(2)
    noisy = torch.lerp(clean, noise, sigma[:, None, None])
    words = model.text(batch.prompts)
    both = (words[0].repeat_interleave(2, 0), words[1].repeat_interleave(2, 0))
    pairs = len(batch.prompts)
    flow = torch.randperm(2 * pairs, generator=batch.generator)[: max(1, pairs // 2)]
    guidance = batch.guidance.repeat_interleave(2)
    result = transformer.run(model.transformer, noisy, both, sigma, guidance, grid, flow)
    assert result.velocity is not None
    parts = {"flow": (result.velocity - (noise - clean)[flow]).square().mean()}
    with torch.autocast("cpu", enabled=False):
        weights = (1 - sigma)[:, None].expand(clean.shape[:2])
        chosen = torch.randperm(weights.numel(), generator=batch.generator)[:ACROSS]
        discarded = bool(torch.rand((), generator=batch.generator) < DISCARDED_SHARE)
        tokens = result.discarded if discarded else result.adaln
        ours, theirs, weights = (x.unflatten(0, (pairs, 2)) for x in (tokens, theirs, weights))
        within = losses.similarity(ours.flatten(1, 2), theirs.flatten(1, 2), weights.flatten(1, 2))
        across = losses.similarity(*(x.flatten(0, 2)[None, chosen] for x in (ours, theirs, weights)))
        match = losses.correspondence(ours, batch.targets, grid, 1 - batch.sigma)
    aligned = {"divergence": (within[0] + across[0]) / 2, "squared": (within[1] + across[1]) / 2, "match": match}
    return parts | aligned


if __name__ == "__main__":
    main()
