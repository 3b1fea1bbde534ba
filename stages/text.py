"""Encode each distinct prompt of a data set once -> cache/text/<features>/."""

from ditf.backbones.device import choose
from ditf.data.catalog import Catalog, texts_of
from ditf.features.job import LIBRARIES
from ditf.features.text import MADE_BY, encode_prompts, file_name
from ditf.files import exclusive, fingerprint, link, remove_folder
from ditf.project.entries import pinned
from ditf.project.paths import CATALOGS, TEXTS, staging
from ditf.provenance import versions_of
from stages import Params, run


def main(params: Params, name: str) -> None:
    """Encode the prompts of an entry of `features`, and link their files into its folder."""
    requested = params.features[name]
    entry, model = params.models[requested.model], pinned(params, requested.model)
    device, dtype = choose(entry.device, entry.dtype)
    prompts = texts_of(Catalog(CATALOGS / requested.dataset).rows("images"))
    extraction_config = {"model": model.extraction_config, "dtype": str(dtype), **versions_of(LIBRARIES)}
    shared, output = staging() / "text" / fingerprint(extraction_config), TEXTS / name
    with exclusive(shared):
        encode_prompts(prompts, shared, model, requested.backbone, dtype, device)
        remove_folder(output)
        output.mkdir(parents=True)
        for file in (MADE_BY, *map(file_name, prompts)):
            link(shared / file, output / file)


if __name__ == "__main__":
    run(main, "features")
