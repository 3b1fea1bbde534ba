"""Check params.yaml, and record the versions and the model behind each entry -> cache/entries/.

This stage always runs, because DVC does not notice a new version of a class or a changed model. Other stages run again
only if the file of their entry changes.
"""

import sys
from pathlib import Path

from ditf.config.params import FILE
from ditf.config.yaml_file import fragile_spellings
from ditf.data.reading import check_file_names
from ditf.project.entries import hashes
from ditf.project.paths import RESULTS
from ditf.project.staging import keep_outputs
from ditf.project.versions import write_records
from stages import Params, run


def main(params: Params) -> None:
    """Check the data sets, write the records of all entries, and print warnings."""
    for dataset in params.datasets.values():
        check_file_names(Path(dataset.root))  # DVC does not name a file that it cannot read
    for problem in [*fragile_spellings(FILE), *write_records(params, hashes())]:
        print(f"warning: {problem}", file=sys.stderr)
    RESULTS.mkdir(exist_ok=True)  # the report depends on this folder, which no stage makes if there are no features
    keep_outputs(params.features)  # before DVC removes an output whose stage is out of date


if __name__ == "__main__":
    run(main)
