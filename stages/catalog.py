"""Check the folder of a data set and list its content -> catalogs/<dataset>/*.parquet."""

from ditf.data.catalog import write_catalog
from ditf.data.reading import first_lines
from ditf.data.subset import keep_subset
from ditf.files import remove_folder
from ditf.project.paths import CATALOGS
from stages import Params, run


def main(params: Params, name: str) -> None:
    """Write the catalog of an entry of `datasets`, and print its first warnings."""
    dataset = params.datasets[name]
    tables = dataset.read()
    remove_folder(CATALOGS / name)
    write_catalog(CATALOGS / name, tables)
    if dataset.subset is not None:
        keep_subset(CATALOGS / name, dataset.subset)
    if warnings := [f"  {row['file']}: {row['warning']}" for row in tables.rows.get("warnings", [])]:
        count = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
        print(f"{count}, listed in {CATALOGS / name}/warnings.parquet:", *first_lines(warnings), sep="\n")


if __name__ == "__main__":
    run(main, "datasets")
