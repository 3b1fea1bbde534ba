"""Fuse two stores into one that is computed when it is read -> cache/features/<fusion>."""

from ditf.features.fusion import write_fusion
from ditf.features.store import FeatureStore
from ditf.files import remove_folder
from ditf.project.paths import FEATURES
from stages import Params, run


def main(params: Params, name: str) -> None:
    """Write an entry of `fusions` from the stores of its halves."""
    fusion, folder = params.fusions[name], FEATURES / name
    remove_folder(folder)
    write_fusion(folder, fusion, [FeatureStore(FEATURES / half.features) for half in (fusion.first, fusion.second)])


if __name__ == "__main__":
    run(main, "fusions")
