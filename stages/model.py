"""Which model, exactly: a Hub commit, or a local folder's hash -> cache/model.json."""

from pipeline.model import pin
from stages import MODEL, Params, run


def main(params: Params) -> None:
    pin(params.model.source, params.model.revision).save(MODEL)


if __name__ == "__main__":
    run(main)
