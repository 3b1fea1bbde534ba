"""Analyse massive channels and the effect of AdaLN on descriptors -> results/analysis/<features>/."""

from ditf.data.tables import write_table
from ditf.drawing.features import draw_channels
from ditf.drawing.figures import save
from ditf.features.store import FeatureStore
from ditf.files import remove_folder
from ditf.project.paths import FEATURES, RESULTS
from ditf.report import analysis
from stages import Params, run


def main(params: Params, name: str) -> None:
    """Write the analysis of an entry of `features`: tables of its channels and similarities, and their figures."""
    store, folder = FeatureStore(FEATURES / name), RESULTS / "analysis" / name
    remove_folder(folder)
    folder.mkdir(parents=True)
    similarity = []
    for block in store.blocks:
        write_table(folder / f"block{block}.csv", analysis.channels(store, block))
        draw_channels(folder / f"block{block}.png", store.statistics(block))
        values = analysis.similarities(store, block)
        if values:
            similarity += analysis.similarity_rows(block, values)
            save(analysis.draw_similarities(values, block), folder / f"similarity{block}.png")
        else:
            print(f"block {block}: every image has one token only, so there are no similarities of tokens")
        save(analysis.draw_maps(store, block), folder / f"maps{block}.png")
        print(f"block {block}: massive channels {store.massive(block)}")
    write_table(folder / "largest.csv", analysis.largest(store))
    write_table(folder / "similarity.csv", similarity)
    if len(store.blocks) > 1:
        save(analysis.draw_over_blocks(store), folder / "blocks.png")


if __name__ == "__main__":
    run(main, "features")
