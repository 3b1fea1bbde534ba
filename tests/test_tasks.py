"""Tasks on small stores and catalogs of their own."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ditf.data.catalog import Catalog, write_catalog
from ditf.data.masks import read_index_mask
from ditf.data.video_frames import split_video
from ditf.datasets.video import Video
from ditf.errors import UserError
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.settings import parse
from ditf.tasks.propagation import Propagation
from tests.test_datasets import make_video

ENTRY: dict[str, Any] = {
    "type": "propagation",
    "dataset": "clip",
    "features": "clip",
    "predict": {"block": 1, "descriptors": ["original"]},
    "score": {},
}


def make(folder: Path, frames: int, masks: str | None = "truth") -> tuple[Propagation, FeatureStore, Catalog]:
    """The task, a store and a catalog of a video in which nothing moves."""
    make_video(folder / "clip", frames)
    write_catalog(folder / "catalog", Video(type="video", root=str(folder / "clip"), masks=masks).read())
    catalog = Catalog(folder / "catalog")
    tokens = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    items = [StoreItem(item, item, (2, 3), (48, 32), "") for item in catalog.images()]
    store = write_store(folder / "store", items, [{1: (tokens, None)} for _ in items])
    return parse(Propagation, ENTRY, "tasks.clip"), store, catalog


def test_one_mask_is_enough_and_what_has_a_true_mask_is_scored(tmp_path: Path) -> None:
    task, store, catalog = make(tmp_path, 4)
    task.make_predictions(store, catalog, tmp_path / "predictions", None)
    masks = sorted((tmp_path / "predictions/original/clip").iterdir())
    assert [path.name for path in masks] == [f"frame{n}.png" for n in (1, 2, 3, 4)]
    assert (read_index_mask(masks[-1]) == 1).any()
    scores = task.compute_metrics(catalog, tmp_path / "predictions", tmp_path / "tables")
    assert 0 < scores.metrics["original"]["J"] <= 1


@pytest.mark.parametrize(("frames", "masks"), [(1, "truth"), (2, "truth"), (4, None)])
def test_a_video_without_true_masks_is_propagated_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], frames: int, masks: str | None
) -> None:
    task, store, catalog = make(tmp_path, frames, masks)
    task.make_predictions(store, catalog, tmp_path / "predictions", None)
    scores = task.compute_metrics(catalog, tmp_path / "predictions", tmp_path / "tables")
    assert (scores.metrics, scores.bars) == ({}, {})
    assert "clip: no true mask between the first and the last frame; not scored" in capsys.readouterr().out


def test_a_video_file_is_split_into_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for number in range(5):
        writer.write(np.full((32, 48, 3), 40 * number, np.uint8))
    writer.release()
    assert split_video(path, tmp_path / "frames", 2) == 3
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == ["00000.png", "00001.png", "00002.png"]
    with pytest.raises(UserError, match="not an empty folder"):
        split_video(path, tmp_path / "frames", 1)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(UserError, match="not a video that can be read"):
        split_video(tmp_path / "text.mp4", tmp_path / "other", 1)
    assert not (tmp_path / "other").exists()
