"""SPair-U: new keypoints on the test pairs of SPair-71k (Mariotti et al., "Jamais Vu", arXiv 2506.08220).

The format is that of SPair-71k, according to the page of https://github.com/VICO-UoE/JamaisVu: "SPair-U has the same
structure as the original SPair-71k test annotations". Two public programs read it: `utils/utils_dataset.py` there, from
the folders `ExtraPairAnnotation` and `ExtraImageAnnotation` in SPair-71k, and `datasets/spair_u.py` of
https://github.com/visinf/MARCO, from a separate folder.
"""

from pathlib import Path
from typing import ClassVar, Literal

from ditf.data.catalog import Tables
from ditf.data.reading import DatasetReader
from ditf.datasets.base import Release
from ditf.datasets.spair import IMAGES, SPLIT_IMAGES, SYMMETRIC, SPair
from ditf.errors import UserError

ANNOTATIONS, EXTRA_ANNOTATIONS = "PairAnnotation", "ExtraPairAnnotation"


class SPairU(SPair):
    """The pairs of SPair-U.

    Layout, in one of two ways: SPair-71k's folder with SPair-U's pair annotations in `ExtraPairAnnotation/test`; or a
    folder of SPair-U with `PairAnnotation/test`, and a copy of SPair-71k's `JPEGImages` or a link to it. Annotations of
    images are not read. The keypoints are not those of SPair-71k, so that none are marked as geometry-aware.

    Attributes:
        split: test, which is the only one.
        prompt: Prompt of images without a caption; `{category}` becomes the image's category.
        captions: JSON file in `root` that maps category + file name, such as "cat2007_000876.jpg", to a caption. With
            "auto", the file `captions.json` is used if it exists; null for none.
    """

    title: ClassVar[str] = "SPair-U"

    split: Literal["test"] = "test"

    @property
    def release(self) -> Release:
        # The number of pairs is not published.
        counts = {"categories": len(SYMMETRIC), "images": IMAGES}
        return Release(counts, SPLIT_IMAGES[self.split], (500, 375), "longer", categories=len(SYMMETRIC))

    def counts(self) -> dict[str, int]:
        pairs = Path(self.root, _annotations(Path(self.root)), self.split).glob("*.json")
        categories = {path.stem.rpartition(":")[2] for path in pairs}
        return {"categories": len(categories), "images": super().counts()["images"]}

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        annotations = _annotations(reader.root)
        if annotations == ANNOTATIONS and (reader.root / annotations / "trn").is_dir():
            text = "has SPair-71k's split trn, which SPair-U does not have"
            remedy = f"Put SPair-U's pairs into {reader.root / EXTRA_ANNOTATIONS}/test."
            raise UserError(f"{reader.root / annotations}: {text}. {remedy}")
        return self.read_pairs(reader, annotations, symmetric={})


def _annotations(root: Path) -> str:
    """Return the folder of SPair-U's pair annotations."""
    return EXTRA_ANNOTATIONS if (root / EXTRA_ANNOTATIONS).is_dir() else ANNOTATIONS
