"""The best target pixel of every keypoint, for each descriptor -> results/spair/predictions.parquet."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalog import read_table
from pipeline.correspondence import predict
from pipeline.engine import engine
from pipeline.store import FeatureStore
from stages import CACHE, CATALOGS, RESULTS, Params, discarded, run


def main(params: Params) -> None:
    s, store = params.spair, FeatureStore(CACHE / "features" / "spair")
    tables = {name: read_table(CATALOGS / "spair", name) for name in ("images", "pairs", "keypoints")}
    channels = discarded("spair")
    with engine(params.dask.engine) as workers:
        found = [predict(store, tables, s.block, descriptor, channels, workers) for descriptor in s.descriptors]
    pq.write_table(pa.concat_tables(found), RESULTS / "spair" / "predictions.parquet")


if __name__ == "__main__":
    run(main)
