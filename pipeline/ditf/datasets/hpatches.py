"""HPatches sequences (Balntas et al., arXiv 1704.05939): images of a plane, and the homographies between them."""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ditf.data.catalog import Problems, Tables, image_row, inside, inspect_images
from ditf.data.images import read_rgb
from ditf.datasets.base import Dataset
from ditf.errors import UserError

FOLDER = "hpatches-sequences-release"
IMAGES = range(1, 7)
KINDS = {"i": "illumination", "v": "viewpoint"}
# Too large for the methods with which D2-Net compared, and left out by all since.
EXCLUDED = (
    "i_contruction i_crownnight i_dc i_pencils i_whitebuilding v_artisans v_astronautis v_talent".split()  # noqa: SIM905
)


class HPatches(Dataset):
    """The sequences of HPatches but for eight that are left out: 52 of illumination and 56 of viewpoint.

    root: the folder hpatches-sequences-release, or the one that holds it. keypoints: a folder beside it with a file
    `<sequence>-<image>.kp` per image, x and y a line; where null, SIFT finds them. most: keypoints that SIFT gives.
    """

    keypoints: str | None = "superpoint-1k"
    most: int = Field(default=1000, ge=4, le=100_000)
    prompt: str = ""

    def read(self) -> Tables:
        root = Path(self.root)
        folder = root if root.name == FOLDER or not (root / FOLDER).is_dir() else root / FOLDER
        sequences = sorted(p.name for p in folder.glob("[iv]_*") if p.is_dir() and p.name not in EXCLUDED)
        if not sequences:
            raise UserError(f"{folder}: has no sequences i_... or v_...; is it HPatches' folder (`root`)?")
        problems = Problems()
        paths = {f"{name}/{k}": folder / name / f"{k}.ppm" for name in sequences for k in IMAGES}
        for path in paths.values():
            problems.take(inside, folder, path.relative_to(folder).as_posix())
        images = inspect_images(paths.values(), problems)
        rows, pairs, points = [], [], []
        for item, path in paths.items():
            sequence, _, number = item.partition("/")
            if path not in images:
                continue
            image, kind = images[path], KINDS[sequence[0]]
            relative = path.resolve().relative_to(root.resolve()).as_posix()
            rows.append(image_row(item, relative, image, kind, self.prompt))
            found = problems.take(self._points, folder, sequence, number, path)
            points += [{"id": item, "x": float(x), "y": float(y)} for x, y in (found if found is not None else ())]
            if number == "1":
                continue
            matrix = problems.take(_matrix, folder / sequence / f"H_1_{number}")
            if matrix is not None:
                row = {"pair": f"{sequence}/1-{number}", "category": kind, "source": f"{sequence}/1", "target": item}
                pairs.append(row | {"matrix": matrix.ravel().tolist()})
        problems.raise_any()
        tables = {"images": rows, "homographies": pairs, "points": points, "warnings": problems.warnings}
        return Tables(tables, "square")

    def _points(self, folder: Path, sequence: str, number: str, path: Path) -> NDArray[np.float64]:
        """The keypoints of an image, (x, y) [n, 2]."""
        if self.keypoints is None:
            grey = cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY)
            found = cv2.SIFT_create(nfeatures=self.most).detect(grey, None)  # type: ignore[attr-defined]
            return np.array([point.pt for point in found], np.float64).reshape(-1, 2)
        name = f"{self.keypoints}/{sequence}-{number}.kp"
        file = next((p for p in (folder.parent / name, folder / name) if p.is_file()), None)
        if file is None:
            raise UserError(f"{folder.parent / name}: not found; give the folder of keypoints, or `keypoints: null`")
        found = np.array(list(_numbers(file)), np.float64)
        if found.ndim != 2 or found.shape[1] != 2 or not len(found):
            raise UserError(f"{file}: not lines of x and y")
        return found


def _numbers(path: Path) -> Iterator[list[float]]:
    """The finite numbers in each line of a file that has any. Raises `UserError` for what else it holds."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; restore it from HPatches") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    width = 0
    for number, line in enumerate(lines, 1):
        try:
            values = [float(text) for text in line.split()]
        except ValueError:
            values = [math.nan]
        if not values:
            continue
        if not all(map(math.isfinite, values)) or len(values) != (width or len(values)):
            raise UserError(f"{path}: line {number}: {line[:40]!r} is not a line of numbers like the others")
        width = len(values)
        yield values


def _matrix(path: Path) -> NDArray[np.float64]:
    found = np.array(list(_numbers(path)), np.float64)
    if found.shape != (3, 3) or abs(np.linalg.det(found)) < 1e-12:
        raise UserError(f"{path}: not an invertible 3x3 homography")
    return found
