"""Label propagation at DAVIS's size, beside the reference: one frame, 8 frames of context."""

import argparse
import statistics

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks import reference
from benchmarks.report import gpu_name, machine, peak_memory, show, timed
from ditf.propagation.banded import BandedSearch
from ditf.propagation.propagate import propagate
from ditf.propagation.voting import PropagationConfig

CHANNELS, LATENT = 3072, 256
TIMED = 3  # frames


def video(frames: int, h: int, w: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Descriptor maps [h * w, 3072] of a smooth scene that drifts: channels of decaying spread, noise per frame."""
    rng = np.random.default_rng(seed)
    scene = gaussian_filter(rng.standard_normal((h, w + 2 * frames, LATENT)).astype(np.float32), (1.5, 1.5, 0))
    scene *= np.arange(1, LATENT + 1, dtype=np.float32) ** -0.5 / scene.std()
    mixing = rng.standard_normal((LATENT, CHANNELS)).astype(np.float32)
    offset = rng.standard_normal(CHANNELS).astype(np.float32)
    noise = 0.3 * float(np.abs(scene[:1] @ mixing).mean())
    return [
        (scene[:, t : t + w].reshape(h * w, LATENT) @ mixing + offset)
        + noise * rng.standard_normal((h * w, CHANNELS), dtype=np.float32)
        for t in range(frames)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=int, nargs=2, default=(60, 106))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--skip-reference", action="store_true", help="measure memory without the reference's")
    options = parser.parse_args()
    (h, w), device = options.grid, options.device
    config = PropagationConfig()
    frames = video(config.n_last_frames + 1 + TIMED, h, w)
    held = sum(frame.nbytes for frame in frames) / 1e9
    labels = np.eye(4, dtype=np.float32)[np.random.default_rng(1).integers(0, 4, (h, w))].transpose(2, 0, 1)

    stream = propagate(iter(frames), labels, config, device)
    earlier = [next(stream) for _ in range(config.n_last_frames)]
    first, predicted = timed(lambda: next(stream))
    seconds = statistics.median([first, *(timed(lambda: next(stream))[0] for _ in range(TIMED - 1))])
    rows = [
        ("tokens, channels, frames of context", f"{h}x{w}, {CHANNELS}, {config.n_last_frames + 1}"),
        (f"per frame, median of {TIMED}", f"{seconds:.2f} s"),
        ("peak memory of the process", f"{peak_memory():.2f} GB"),
        ("less the input frames that the benchmark holds", f"{peak_memory() - held:.2f} GB"),
    ]
    if device == "cuda":
        rows.append(("peak memory of the GPU", f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB"))
    if device == "cpu":
        search = BandedSearch((h, w), config)
        context_labels = [torch.from_numpy(x.reshape(4, -1).T.copy()) for x in (labels, *earlier)]
        prepared = [search.prepare(torch.from_numpy(frame)) for frame in frames[:-TIMED]]
        target = search.prepare(torch.from_numpy(frames[-TIMED]))
        banded, _ = timed(lambda: search.labels(target, list(zip(prepared, context_labels, strict=True))))
        rows.append(
            ("plain products of bands of rows, as on a GPU", f"{banded:.2f} s, **{banded / seconds:.1f}** times")
        )
        del prepared, target
    if not options.skip_reference:
        context = [torch.from_numpy(frame).to(device) for frame in frames[:-TIMED]]
        known = [torch.from_numpy(x.reshape(4, -1).T.copy()).to(device) for x in (labels, *earlier)]
        last = torch.from_numpy(frames[-TIMED])

        def plainly(dtype: torch.dtype) -> Tensor:
            sources, labels = [x.to(dtype) for x in context], [x.to(dtype) for x in known]
            target = last.to(device, dtype)
            return reference.propagate_frame(
                target, sources, labels, (h, w), config.topk, config.temperature, config.radius
            ).cpu()

        plain, expected = timed(lambda: plainly(torch.float32))
        if device == "cuda":  # whose sums in float32 order some near neighbours otherwise
            expected = plainly(torch.float64)
        difference = np.abs(predicted.reshape(4, -1).T - expected.numpy()).max()
        rows += [
            ("the reference, per frame", f"{plain:.2f} s, peak {peak_memory():.1f} GB"),
            ("**ratio**", f"**{plain / seconds:.1f}**"),
            ("greatest difference of a soft label", f"{difference:.1e}"),
        ]
    show(f"Propagation ({gpu_name() if device == 'cuda' else machine()})", rows)


if __name__ == "__main__":
    main()
