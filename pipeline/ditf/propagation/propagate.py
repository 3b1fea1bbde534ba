"""Label propagation: carry the labels of the first frame to later frames by nearest neighbours of descriptors.

Method: the video-segmentation protocol of DINO (Caron et al., arXiv 2104.14294), with the settings of DiTF.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditf.propagation.banded import BandedSearch
from ditf.propagation.voting import PropagationConfig
from ditf.propagation.window import WindowSearch


def propagate(
    descriptors: Iterable[NDArray[np.float32]],
    labels: NDArray[np.float32],
    config: PropagationConfig,
    device: str = "cpu",
) -> Iterator[NDArray[np.float32]]:
    """Propagate the labels of the first frame to all others.

    Args:
        descriptors: Descriptors of each frame in order, float32 [h * w, C]. They are read one frame at a time.
        labels: Labels of the first frame, float32 [objects + 1, h, w].
        config: How labels are propagated.
        device: Torch device.

    Yields:
        Soft labels of each frame after the first, float32 [objects + 1, h, w].
    """
    frames = iter(descriptors)
    search = _search((labels.shape[1], labels.shape[2]), config, device)
    first_labels = torch.from_numpy(np.ascontiguousarray(labels.reshape(len(labels), -1).T)).to(device)
    first = (search.prepare(torch.from_numpy(next(frames)).to(device)), first_labels)
    recent: deque[tuple[Any, Tensor]] = deque(maxlen=config.n_last_frames)
    for descriptor in frames:
        frame = search.prepare(torch.from_numpy(descriptor).to(device))
        soft = search.labels(frame, [first, *recent])
        recent.append((frame, soft))
        yield soft.T.reshape(labels.shape).cpu().numpy()


def _search(grid: tuple[int, int], config: PropagationConfig, device: str) -> Any:
    """Return the fastest search for a radius and a device."""
    if not config.radius:
        from ditf.propagation.anywhere import GlobalSearch  # here, because FAISS loads a second OpenMP runtime

        return GlobalSearch(config)
    return WindowSearch(grid, config) if device == "cpu" else BandedSearch(grid, config)
