"""Which model, exactly: a Hub commit, or a local folder's hash -> cache/models/<model>.json.

It runs always, since DVC does not see a source change; its output changes only if the model does. So every
`dvc repro` validates the parameters, too.
"""

from dataclasses import replace

from ditf.backbones.source import Model, is_hub, pin
from ditf.errors import UserError
from ditf.project.entries import hashes
from ditf.project.paths import MODELS
from stages import Params, run


def main(params: Params, name: str) -> None:
    entry, path = params.models[name], MODELS / f"{name}.json"
    if is_hub(entry.source) and path.exists():
        try:
            known = Model.load(path)
        except UserError:
            known = None
        same = known and (known.family, known.source, known.revision) == (entry.type, entry.source, entry.revision)
        if known and same and not (known.weights or entry.gguf):
            replace(known, loading=entry.loading).save(path)
            return  # a commit stays what it is, even if the branch moved on: remove the file to follow it
    pin(entry.type, entry.source, entry.revision, hashes(), entry.loading).save(path)


if __name__ == "__main__":
    run(main, "models")
