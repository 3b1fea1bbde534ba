"""Homography estimation from matches: the errors of the image corners and of the matches.

Protocols: DIFT (Tang et al., arXiv 2306.03881) for homographies, D2-Net (Dusmanu et al., arXiv 1905.03561) for matches.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METHODS = {"lmeds": cv2.LMEDS, "ransac": cv2.RANSAC}
RANSAC_THRESHOLD = 3.0  # reprojection error of an inlier in pixels
LEAST_MATCHES = 4  # a homography has eight degrees of freedom


def project(matrix: Floats, points: Floats) -> Floats:
    """Map points by a homography.

    Args:
        matrix: Homography, [3, 3].
        points: Points (x, y), [n, 2].

    Returns:
        Points (x, y), [n, 2].
    """
    projected = np.concatenate([points, np.ones((len(points), 1))], 1) @ matrix.T
    result: Floats = projected[:, :2] / projected[:, 2:]
    return result


def estimate(source: Floats, target: Floats, method: str) -> Floats | None:
    """Estimate the homography of matches with OpenCV, whose estimators use a fixed seed.

    Args:
        source: Points (x, y) of the source image, [n, 2].
        target: Matches (x, y) in the target image, [n, 2].
        method: Name of an estimator, a key of `METHODS`.

    Returns:
        The homography from source to target, [3, 3], or None if the estimator fails or there are fewer than four
        matches.
    """
    if len(source) < LEAST_MATCHES:
        return None
    matrix, _ = cv2.findHomography(source, target, METHODS[method], ransacReprojThreshold=RANSAC_THRESHOLD)
    return None if matrix is None else np.asarray(matrix, np.float64)


def corner_error(estimated: Floats | None, truth: Floats, size: tuple[int, int]) -> float:
    """Compute the mean distance between the corners of an image under two homographies.

    Args:
        estimated: Estimated homography, [3, 3]. None gives an infinite error.
        truth: True homography, [3, 3].
        size: Width and height of the source image in pixels.

    Returns:
        The distance in pixels.
    """
    if estimated is None:
        return math.inf
    w, h = size
    corners = np.array([[0, 0], [0, h - 1], [w - 1, 0], [w - 1, h - 1]], np.float64)
    error = float(np.linalg.norm(project(estimated, corners) - project(truth, corners), axis=1).mean())
    return error if math.isfinite(error) else math.inf


def reprojection_errors(source: Floats, target: Floats, truth: Floats) -> Floats:
    """Compute the distance between each match and the source point under the true homography.

    Args:
        source: Points (x, y) of the source image, [n, 2].
        target: Matches (x, y) in the target image, [n, 2].
        truth: True homography from source to target, [3, 3].

    Returns:
        Distances in pixels, [n].
    """
    error: Floats = np.linalg.norm(project(truth, source) - target, axis=1)
    return error
