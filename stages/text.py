"""Each distinct prompt of the catalogs through T5 and CLIP, once -> cache/text/<dataset>/."""

from pipeline.backbones.text import TextEncoder
from pipeline.catalog import read_table
from pipeline.device import choose
from pipeline.model import Model
from pipeline.params import DATASETS
from pipeline.staging import exclusive, fingerprint, publish
from pipeline.text import encode_prompts, file_name
from stages import CACHE, CATALOGS, MODEL, STAGING, Params, run


def main(params: Params) -> None:
    model = Model.load(MODEL, params.model.source)
    device, dtype = choose(params.model.device, params.model.dtype)
    prompts = {d: [row["prompt"] for row in read_table(CATALOGS / d, "prompts")] for d in DATASETS}
    folder = STAGING / "text" / fingerprint({"model": model.digest, "dtype": str(dtype)})

    def load_encoder() -> TextEncoder:
        return TextEncoder(model.component, dtype, device)

    with exclusive(folder):
        encode_prompts([p for each in prompts.values() for p in each], folder, load_encoder)
        for dataset, each in prompts.items():
            publish(folder, CACHE / "text" / dataset, {file_name(prompt) for prompt in each})


if __name__ == "__main__":
    run(main)
