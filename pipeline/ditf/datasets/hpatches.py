"""HPatches sequences (Balntas et al., arXiv 1704.05939): images of a plane, and the homographies between them."""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.images import read_rgb
from ditf.data.reading import DatasetReader, read_text
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

FOLDER = "hpatches-sequences-release"
IMAGES = range(1, 7)
SEQUENCES = 108  # without those in EXCLUDED
CATEGORIES = {"i": "illumination", "v": "viewpoint"}
# D2-Net (Dusmanu et al., arXiv 1905.03561) left out these sequences because of their size, and others did the same.
EXCLUDED = (
    "i_contruction i_crownnight i_dc i_pencils i_whitebuilding v_artisans v_astronautis v_talent".split()  # noqa: SIM905
)


class HPatches(Dataset):
    """The sequences of HPatches without the eight largest: 52 of illumination and 56 of viewpoint.

    Layout, as released at https://github.com/hpatches/hpatches-dataset: `hpatches-sequences-release` with
    `<sequence>/1.ppm` to `6.ppm` and the homographies `<sequence>/H_1_2` to `H_1_6`.

    Attributes:
        root: The folder `hpatches-sequences-release`, or the one that contains it.
        keypoints: Folder in the sequences' folder or beside it. It has a file `<sequence>-<image>.kp` per image, with x
            and y on each line. null detects keypoints with SIFT.
        most: Largest number of keypoints that SIFT detects in an image.
        prompt: Prompt of all images.
    """

    keypoints: str | None = "superpoint-1k"
    most: int = Field(default=1000, ge=4, le=100_000)
    prompt: str = ""

    @property
    def release(self) -> Release:
        counts = {"sequences": SEQUENCES}
        keypoints = self.keypoints or f"SIFT up to {self.most}"
        return Release(
            counts,
            SEQUENCES * len(IMAGES),
            (1024, 768),
            "square",
            len(CATEGORIES),
            title=f"HPatches, keypoints {keypoints}",
            rows={"homographies": SEQUENCES * (len(IMAGES) - 1)},
        )

    def counts(self) -> dict[str, int]:
        return {"sequences": len(_sequences(_folder(Path(self.root))))}

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        folder = _folder(reader.root)
        sequences = _sequences(folder)
        if not sequences:
            raise UserError(f"{folder}: no sequences i_... or v_...; is it HPatches' folder? Correct `root`.")
        paths = {f"{name}/{k}": reader.locate(f"{name}/{k}.ppm", folder) for name in sequences for k in IMAGES}
        images = reader.images(paths.values())
        rows, pairs, points = list[Row](), list[Row](), list[Row]()
        for id, path in paths.items():
            sequence, _, number = id.partition("/")
            if path not in images:
                continue  # a problem already
            category = CATEGORIES[sequence[0]]
            rows.append(image_row(id, reader.relative(path), images[path], category, self.prompt))
            keypoints = reader.attempt(self._keypoints, reader, folder, id, path)
            if keypoints is not None:
                points += [{"id": id, "x": float(x), "y": float(y)} for x, y in keypoints]
            if number == "1":
                continue
            matrix = reader.attempt(_read_homography, reader.locate(f"{sequence}/H_1_{number}", folder))
            if matrix is not None:
                row: Row = {"pair": f"{sequence}/1-{number}", "category": category}
                pairs.append(row | {"source": f"{sequence}/1", "target": id, "matrix": matrix.ravel().tolist()})
        tables = {"images": rows, "homographies": pairs, "points": points, "warnings": [*reader.finish()]}
        return Tables(tables, "square")

    def _keypoints(self, reader: DatasetReader, folder: Path, id: str, path: Path) -> NDArray[np.float64]:
        """Return the keypoints of an image, (x, y) [n, 2]."""
        if self.keypoints is None:
            grey = cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY)
            detected = cv2.SIFT_create(nfeatures=self.most).detect(grey, None)  # type: ignore[attr-defined]
            return np.array([point.pt for point in detected], np.float64).reshape(-1, 2)
        name = f"{self.keypoints}/{id.replace('/', '-')}.kp"
        candidates = [reader.locate(name, place) for place in (folder.parent, folder)]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise UserError(f"{candidates[0]}: not found. Set `keypoints` to the folder of keypoints, or to null.")
        keypoints = np.array(_read_numbers(file), np.float64)
        if keypoints.ndim != 2 or keypoints.shape[1] != 2 or not len(keypoints):
            raise UserError(f"{file}: not lines of x and y. Restore the file.")
        return keypoints


def _folder(root: Path) -> Path:
    """Return the folder of the sequences."""
    inside = root / FOLDER
    return inside if root.name != FOLDER and inside.is_dir() else root


def _sequences(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("[iv]_*") if p.is_dir() and p.name not in EXCLUDED)


def _read_numbers(path: Path) -> list[list[float]]:
    """Return the numbers on each line that has any.

    Raises:
        UserError: A line has a different count of numbers than the others, or anything but finite numbers.
    """
    rows: list[list[float]] = []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        try:
            values = [float(word) for word in text.split()]
        except ValueError:
            values = [math.nan]
        if not values:
            continue
        if not all(map(math.isfinite, values)) or (rows and len(values) != len(rows[0])):
            raise UserError(f"{path}: line {line}: {text[:40]!r} is not a line of numbers like the others. Restore it.")
        rows.append(values)
    return rows


def _read_homography(path: Path) -> NDArray[np.float64]:
    """Read an invertible 3x3 matrix."""
    matrix = np.array(_read_numbers(path), np.float64)
    if matrix.shape != (3, 3) or abs(np.linalg.det(matrix)) < 1e-12:
        raise UserError(f"{path}: not an invertible 3x3 homography. Restore it from HPatches.")
    return matrix
