"""Sample data in the official layouts -> data/sample/."""

import shutil
from pathlib import Path

from ditf import sample
from stages import Params, run

FOLDER = Path("data/sample")


def main(params: Params) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    sample.build_spair(FOLDER / "SPair-71k", params.sample.seed)
    sample.build_davis(FOLDER / "DAVIS", params.sample.seed)
    sample.build_photos(FOLDER / "photos")


if __name__ == "__main__":
    run(main)
