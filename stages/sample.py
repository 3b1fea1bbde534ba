"""Sample data in the official layouts -> data/sample/."""

import shutil
from pathlib import Path

from ditf.data.ap10k_pairs import prepare_ap10k
from ditf.sample import pairs as sample_pairs
from ditf.sample import pictures as sample
from stages import Params, run

FOLDER = Path("data/sample")


def main(params: Params) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    sample.build_spair(FOLDER / "SPair-71k", params.sample.seed)
    sample.build_davis(FOLDER / "DAVIS", params.sample.seed)
    sample.build_photos(FOLDER / "photos")
    sample_pairs.build_ap10k(FOLDER / "ap-10k", params.sample.seed)
    prepare_ap10k(FOLDER / "ap-10k", params.sample.seed, None)
    sample_pairs.build_pf_pascal(FOLDER / "PF-dataset-PASCAL", params.sample.seed)
    sample_pairs.build_ade20k(FOLDER / "ADE20K", params.sample.seed)
    sample_pairs.build_pf_willow(FOLDER / "PF-WILLOW", params.sample.seed)


if __name__ == "__main__":
    run(main)
