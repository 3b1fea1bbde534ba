"""Measure a checkpoint: `python -m miniature.evaluate --run FOLDER --vae FOLDER --pairs FOLDER --videos FOLDER`.

The measures follow the pipeline's protocol in a short form, so that a checkpoint can be judged while training goes on.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from miniature import transformer
from miniature.checkpoints import load_checkpoint
from miniature.train import Miniature

DESCRIPTORS = ("original", "adaln", "adaln+discard")
POSTERIOR_DEVIATION = 0.05
NEIGHBOURS, TEMPERATURE, LAST_FRAMES, RADIUS = 5, 0.1, 7, 12  # of label propagation


def main() -> None:
    """Print PCK@0.1 for each descriptor, statistics of the massive channels, and J&F."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder with checkpoint.pt")
    parser.add_argument("--vae", type=Path, required=True, help="trained VAE, a diffusers folder")
    parser.add_argument("--pairs", type=Path, help="folder in SPair-71k's layout")
    parser.add_argument("--videos", type=Path, help="folder in DAVIS-2017's layout")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256], help="longer sides of the pairs' images")
    parser.add_argument("--ensemble", type=int, default=4, help="noise samples of an image of a pair")
    parser.add_argument("--timestep", type=float, default=260)
    parser.add_argument("--video-timestep", type=float, default=90)
    parser.add_argument("--video-ensemble", type=int, default=1)
    parser.add_argument("--masks", type=Path, help="folder for pictures of the propagated masks")
    arguments = parser.parse_args()
    state = load_checkpoint(arguments.run / "checkpoint.pt")
    assert state is not None, f"{arguments.run}/checkpoint.pt does not exist"
    model = Miniature().eval()
    model.load_state_dict(state["average"])
    model.transformer.set_attn_processor(transformer.TrainingAttention())
    vae = AutoencoderKL.from_pretrained(arguments.vae)
    features = Features(model, vae)
    print(f"step {state['step']}")
    for size in arguments.sizes if arguments.pairs else []:
        started = time.monotonic()
        figures = correspondence(features, arguments.pairs, size, arguments.timestep, arguments.ensemble)
        print(f"pairs at {size} px, {time.monotonic() - started:.0f} s: {figures}", flush=True)
    for descriptor in ("adaln+discard",) if arguments.videos else ():
        figures = propagation(
            features, arguments.videos, descriptor, arguments.video_timestep, arguments.video_ensemble, arguments.masks
        )
        print(f"videos, {descriptor}: {figures}", flush=True)


class Features:
    """Features of images.

    Args:
        model: The trained components.
        vae: The trained VAE.
    """

    def __init__(self, model: Miniature, vae: AutoencoderKL) -> None:
        self.model, self.vae = model, vae
        self.statistics: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], prompt: str, timestep: float, ensemble: int) -> dict[str, Tensor]:
        """Return the mean tokens of an image for each descriptor, float32 [rows, columns, width].

        Args:
            image: Image whose sides are multiples of 16, uint8 [h, w, 3].
            prompt: Text of the image.
            timestep: Timestep in 0..1000.
            ensemble: Number of noise samples.
        """
        generator = torch.Generator().manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = self.vae.encode(pixels).latent_dist.mean.float()
            grid = (latents.shape[2] // 2, latents.shape[3] // 2)
            clean = transformer.pack(latents).expand(ensemble, -1, -1)
            clean = clean + POSTERIOR_DEVIATION * torch.randn(clean.shape, generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            sigma = torch.full((ensemble,), timestep / 1000)
            words, pooled = self.model.text([prompt])
            text = (words.expand(ensemble, -1, -1), pooled.expand(ensemble, -1))
            guidance = torch.full((ensemble,), transformer.GUIDANCE)
            noisy = torch.lerp(clean, noise, sigma[:, None, None])
            result = transformer.run(self.model.transformer, noisy, text, sigma, guidance, grid, None)
        raw = result.raw.mean(0)
        self.statistics.append(torch.stack([raw.abs().mean(0), raw.mean(0), raw.std(0)]))
        block = self.model.transformer.single_transformer_blocks[transformer.CAPTURED - transformer.DOUBLE_BLOCKS]
        embedding = self.model.transformer.time_text_embed(sigma[:1] * 1000, guidance[:1] * 1000, pooled)
        shift, scale, _ = block.norm.linear(block.norm.silu(embedding)).chunk(3, 1)
        found = {"original": raw}
        for name, tokens in (("adaln", raw), ("adaln+discard", transformer.discard(raw))):
            found[name] = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return {name: tokens.view(*grid, -1) for name, tokens in found.items()}

    def massive(self) -> str:
        """Return the magnitude of the massive channels compared with the median channel."""
        magnitude, mean, deviation = torch.stack(self.statistics).mean(0)
        median = magnitude.median()
        return ", ".join(
            f"channel {channel}: {magnitude[channel] / median:.0f} x median, std/mean "
            f"{deviation[channel] / mean[channel].abs():.2f}"
            for channel in magnitude.topk(3).indices.tolist()
        )


def correspondence(features: Features, root: Path, size: int, timestep: float, ensemble: int) -> dict[str, object]:
    """Return PCK@0.1 per point, in percent, for each descriptor.

    Args:
        features: Source of features.
        root: Folder in SPair-71k's layout.
        size: Longer side of the resized images in pixels.
        timestep: Timestep in 0..1000.
        ensemble: Number of noise samples.
    """
    captions = json.loads((root / "captions.json").read_text(encoding="utf-8"))
    cache: dict[Path, dict[str, Tensor]] = {}

    def described(category: str, name: str) -> dict[str, Tensor]:
        path = root / "JPEGImages" / category / name
        if path not in cache:
            image = Image.open(path).convert("RGB")
            scale = size / max(image.size)
            sides = [round(side * scale / 16) * 16 for side in image.size]
            resized = np.asarray(image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC))
            cache[path] = features(
                resized, captions.get(category + name, f"a photo of a {category}"), timestep, ensemble
            )
        return cache[path]

    correct: dict[str, list[bool]] = {name: [] for name in DESCRIPTORS}
    by_category: dict[str, list[bool]] = {}
    for file in sorted((root / "PairAnnotation" / "test").glob("*.json")):
        pair = json.loads(file.read_text(encoding="utf-8"))
        source, target = (described(pair["category"], pair[key]) for key in ("src_imname", "trg_imname"))
        box = pair["trg_bndbox"]
        limit = 0.1 * max(box[2] - box[0], box[3] - box[1])
        for name in DESCRIPTORS:
            ours, theirs = (
                normalize(
                    interpolate(
                        tokens[name].permute(2, 0, 1)[None], size=pair[key][1::-1], mode="bilinear", align_corners=False
                    )[0],
                    dim=0,
                )
                for tokens, key in ((source, "src_imsize"), (target, "trg_imsize"))
            )
            for (x, y), (u, v) in zip(pair["src_kps"], pair["trg_kps"], strict=True):
                scores = torch.einsum("c,chw->hw", ours[:, y, x], theirs)
                row, column = divmod(int(scores.argmax()), scores.shape[1])
                hit = bool(np.hypot(column - u, row - v) <= limit)
                correct[name].append(hit)
                if name == "adaln+discard":
                    by_category.setdefault(pair["category"], []).append(hit)
    found: dict[str, object] = {name: round(100 * float(np.mean(hits)), 2) for name, hits in correct.items()}
    found["categories"] = {name: round(100 * float(np.mean(hits)), 1) for name, hits in by_category.items()}
    found["massive"] = features.massive()
    return found


def propagation(
    features: Features, root: Path, descriptor: str, timestep: float, ensemble: int, pictures: Path | None
) -> dict[str, float]:
    """Return J, F and their mean over all objects.

    Args:
        features: Source of features.
        root: Folder in DAVIS-2017's layout.
        descriptor: Descriptor to propagate with.
        timestep: Timestep in 0..1000.
        ensemble: Number of noise samples.
        pictures: Folder for pictures of the masks, or None.
    """
    jaccards, boundaries, found = [], [], {}
    for sequence in sorted((root / "JPEGImages/480p").iterdir()):
        region: list[list[float]] = []
        contour: list[list[float]] = []
        frames = sorted(sequence.glob("*.jpg"))
        truths = [np.asarray(Image.open(root / "Annotations/480p" / sequence.name / f"{f.stem}.png")) for f in frames]
        for number, mask in enumerate(_propagate(features, frames, truths[0], descriptor, timestep, ensemble)):
            objects = range(1, int(truths[0][truths[0] < 255].max()) + 1)
            if 0 < number < len(frames) - 1:
                pairs = [(mask == index, truths[number] == index) for index in objects]
                region.append([_jaccard(*pair) for pair in pairs])
                contour.append([_boundary(*pair) for pair in pairs])
            if pictures and number % 6 == 0:
                _draw(pictures / sequence.name / f"{frames[number].stem}.jpg", frames[number], mask)
        jaccards += list(np.mean(region, 0))
        boundaries += list(np.mean(contour, 0))
        found[sequence.name] = round(float(np.mean(region) + np.mean(contour)) / 2, 4)
    j, f = float(np.mean(jaccards)), float(np.mean(boundaries))
    return found | {"J": round(j, 4), "F": round(f, 4), "J&F": round((j + f) / 2, 4)}


def _propagate(
    features: Features, frames: list[Path], first: NDArray[np.uint8], descriptor: str, timestep: float, ensemble: int
) -> Iterator[NDArray[np.uint8]]:
    stored: list[Tensor] = []
    soft: list[Tensor] = []
    for number, path in enumerate(frames):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        scale = 480 / min(height, width)
        sides = [480 if side == min(height, width) else int(side * scale) // 32 * 32 for side in (width, height)]
        resized = np.asarray(cv2.resize(image, (sides[0], sides[1]), interpolation=cv2.INTER_LINEAR))
        grid = features(resized, "a photo of a image", timestep, ensemble)[descriptor]
        rows, columns, _ = grid.shape
        tokens = normalize(grid.flatten(0, 1), dim=-1)
        if not number:
            labels = torch.from_numpy(
                np.array(Image.fromarray(first).resize((columns, rows), Image.Resampling.NEAREST))
            )
            labels = labels.flatten().long()
            labels[labels == 255] = 0
            soft.append(torch.nn.functional.one_hot(labels, int(first[first < 255].max()) + 1).float())
            stored.append(tokens)
            yield first
            continue
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        y, x = y.flatten(), x.flatten()
        near = ((y[:, None] - y).abs() <= RADIUS) & ((x[:, None] - x).abs() <= RADIUS)
        context = [0, *range(max(1, number - LAST_FRAMES), number)]
        scores = torch.cat([(tokens @ stored[k].T).masked_fill(~near, -torch.inf) for k in context], 1)
        best, index = scores.topk(NEIGHBOURS, 1)
        weights = torch.softmax(best / TEMPERATURE, 1)
        labels = torch.cat([soft[k] for k in context])[index]
        soft.append((weights[..., None] * labels).sum(1))
        stored.append(tokens)
        maps = interpolate(soft[-1].T.view(1, -1, rows, columns), scale_factor=16, mode="bilinear")[0]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        maps = torch.where(high > 0, (maps - low) / (high - low).clamp(min=1e-12), maps)
        mask = maps.argmax(0).numpy().astype(np.uint8)
        yield np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _jaccard(ours: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = (ours | truth).sum()
    return float((ours & truth).sum() / union) if union else 1.0


def _boundary(ours: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    radius = int(np.ceil(0.008 * np.hypot(*truth.shape)))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    edges = [_edge(mask) for mask in (ours, truth)]
    wide = [cv2.dilate(edge.astype(np.uint8), disk) > 0 for edge in edges]
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    precision, recall = (edges[0] & wide[1]).sum() / edges[0].sum(), (edges[1] & wide[0]).sum() / edges[1].sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    return edge


def _draw(path: Path, frame: Path, mask: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.asarray(Image.open(frame)).astype(np.float32)
    colours = np.array([[0, 0, 0], [230, 40, 40], [40, 200, 40], [60, 90, 240]], np.float32)
    shown = np.where(mask[..., None] > 0, 0.5 * image + 0.5 * colours[mask % 4], image)
    Image.fromarray(shown.round().astype(np.uint8)).save(path, quality=90)


if __name__ == "__main__":
    main()
