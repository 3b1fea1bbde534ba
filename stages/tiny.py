"""A tiny random FLUX in a diffusers folder -> cache/tiny-flux/."""

import shutil

from pipeline.backbones import tiny
from stages import CACHE, Params, run


def main(params: Params) -> None:
    folder = CACHE / "tiny-flux"
    shutil.rmtree(folder, ignore_errors=True)
    tiny.build(folder, params.sample.seed)


if __name__ == "__main__":
    run(main)
