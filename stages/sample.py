"""Make sample data in the official layouts -> data/sample/."""

from pathlib import Path

from ditf.data.prepare_ap10k import prepare_ap10k
from ditf.files import remove_folder
from ditf.sample.ade20k import build_ade20k
from ditf.sample.ap10k import build_ap10k
from ditf.sample.davis import build_davis
from ditf.sample.pf_pascal import build_pf_pascal
from ditf.sample.pf_willow import build_pf_willow
from ditf.sample.photos import build_photos
from ditf.sample.spair import build_spair
from stages import Params, run

FOLDER = Path("data/sample")


def main(params: Params) -> None:
    """Write all sample data sets."""
    remove_folder(FOLDER)
    build_spair(FOLDER / "SPair-71k", params.sample.seed)
    build_davis(FOLDER / "DAVIS", params.sample.seed)
    build_photos(FOLDER / "photos")
    build_ap10k(FOLDER / "ap-10k", params.sample.seed)
    prepare_ap10k(FOLDER / "ap-10k", params.sample.seed, None)
    build_pf_pascal(FOLDER / "PF-dataset-PASCAL", params.sample.seed)
    build_ade20k(FOLDER / "ADE20K", params.sample.seed)
    build_pf_willow(FOLDER / "PF-WILLOW", params.sample.seed)


if __name__ == "__main__":
    run(main)
