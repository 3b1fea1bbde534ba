"""Homographies from matches: accuracy of their corners, and matching accuracy.

Protocols: DIFT (Tang et al., arXiv 2306.03881) for homographies, D2-Net (Dusmanu et al., arXiv 1905.03561) for matches.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METHODS = {"lmeds": cv2.LMEDS, "ransac": cv2.RANSAC}
REPROJECTION = 3.0  # pixels, of RANSAC
FEWEST = 4  # matches of a homography


def project(matrix: Floats, points: Floats) -> Floats:
    """Points (x, y) [n, 2] under a homography [3, 3]."""
    projected = np.concatenate([points, np.ones((len(points), 1))], 1) @ matrix.T
    result: Floats = projected[:, :2] / projected[:, 2:]
    return result


def estimate(source: Floats, target: Floats, method: str) -> Floats | None:
    """The homography of matches [n, 2]; None where there is none. OpenCV's estimators are seeded by themselves."""
    if len(source) < FEWEST:
        return None
    matrix, _ = cv2.findHomography(source, target, METHODS[method], ransacReprojThreshold=REPROJECTION)
    return None if matrix is None else np.asarray(matrix, np.float64)


def corner_error(estimated: Floats | None, truth: Floats, size: tuple[int, int]) -> float:
    """The mean distance in pixels of the corners of an image of (width, height) under two homographies."""
    if estimated is None:
        return math.inf
    w, h = size
    corners = np.array([[0, 0], [0, h - 1], [w - 1, 0], [w - 1, h - 1]], np.float64)
    error = float(np.linalg.norm(project(estimated, corners) - project(truth, corners), axis=1).mean())
    return error if math.isfinite(error) else math.inf


def reprojection(source: Floats, target: Floats, truth: Floats) -> Floats:
    """The distance in pixels from each match to where the true homography leads, [n]."""
    error: Floats = np.linalg.norm(project(truth, source) - target, axis=1)
    return error
