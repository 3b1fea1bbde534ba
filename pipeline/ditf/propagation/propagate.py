"""Label propagation: the first frame's labels carried through a video by nearest neighbours of descriptors.

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
    voting: PropagationConfig,
    device: str = "cpu",
) -> Iterator[NDArray[np.float32]]:
    """Carry `labels` from the first frame through the others.

    Args:
        descriptors: one array [h * w, C] per frame, the first frame's first; read one at a time.
        labels: the first frame's labels, [objects + 1, h, w].
        voting: how labels travel.
        device: a torch device.

    Yields:
        Soft labels [objects + 1, h, w] of each frame but the first.
    """
    frames = iter(descriptors)
    search = _search((labels.shape[1], labels.shape[2]), voting, device)
    known = torch.from_numpy(np.ascontiguousarray(labels.reshape(len(labels), -1).T)).to(device)
    first = (search.prepare(torch.from_numpy(next(frames)).to(device)), known)
    recent: deque[tuple[Any, Tensor]] = deque(maxlen=voting.n_last_frames)
    for descriptor in frames:
        frame = search.prepare(torch.from_numpy(descriptor).to(device))
        soft = search.labels(frame, [first, *recent])
        recent.append((frame, soft))
        yield soft.T.reshape(labels.shape).cpu().numpy()


def _search(grid: tuple[int, int], voting: PropagationConfig, device: str) -> Any:
    if not voting.radius:
        from ditf.propagation.anywhere import AnywhereSearch  # here, as FAISS brings a second OpenMP runtime

        return AnywhereSearch(voting)
    return WindowSearch(grid, voting) if device == "cpu" else BandedSearch(grid, voting)
