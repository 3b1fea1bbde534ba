"""A data set's folder, checked once -> catalogs/<dataset>/*.parquet."""

from ditf.data.catalog import write_catalog
from ditf.project.paths import CATALOGS
from stages import Params, run


def main(params: Params, name: str) -> None:
    tables = params.datasets[name].read()
    write_catalog(CATALOGS / name, tables)
    if warnings := tables.rows.get("warnings"):
        print(f"{len(warnings)} warnings, listed in {CATALOGS / name}/warnings.parquet; the first is:")
        print(f"  {warnings[0]['file']}: {warnings[0]['warning']}")


if __name__ == "__main__":
    run(main, "datasets")
