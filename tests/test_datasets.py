"""The sample data, the readers of the official layouts, and what they say of broken data sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.catalog import SCHEMAS, read_table, write_tables
from pipeline.datasets import davis, sample, spair
from pipeline.errors import UserError
from pipeline.images import read_index_mask, read_rgb
from pipeline.masks import save_mask


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    sample.build_spair(root / "SPair-71k", 0)
    sample.build_davis(root / "DAVIS", 0)
    return root


def test_sample_pairs_are_in_the_official_layout(sample_data: Path) -> None:
    tables = spair.read(sample_data / "SPair-71k", "test", "unused", "captions.json")
    assert len({pair["category"] for pair in tables["pairs"]}) >= 5
    assert len(tables["pairs"]) >= 40
    assert len(tables["prompts"]) == len(sample.PHOTOS)
    assert {pair["viewpoint_variation"] for pair in tables["pairs"]} == {0, 1, 2}


def test_sample_keypoints_show_the_same_point(sample_data: Path) -> None:
    """Around a keypoint both images look alike, up to the warp; around another point they do not."""
    root = sample_data / "SPair-71k"
    tables = spair.read(root, "test", "unused", None)
    images = {row["id"]: read_rgb(root / row["path"]).mean(2) for row in tables["images"]}
    pairs = {pair["pair"]: pair for pair in tables["pairs"]}

    def patch(name: str, x: int, y: int) -> np.ndarray[Any, Any]:
        found = np.pad(images[name], 4, mode="reflect")[y : y + 9, x : x + 9].ravel()
        return (found - found.mean()) / (found.std() + 1)

    right, wrong = [], []
    rows = tables["keypoints"]
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        pair = pairs[row["pair"]]
        source = patch(pair["source"], row["source_x"], row["source_y"])
        right.append(float(source @ patch(pair["target"], row["target_x"], row["target_y"])))
        if other["pair"] == row["pair"]:
            wrong.append(float(source @ patch(pair["target"], other["target_x"], other["target_y"])))
    assert np.median(right) > 0.7 * 81
    assert np.median(wrong) < 0.3 * 81


def test_sample_videos_are_in_the_official_layout(sample_data: Path) -> None:
    tables = davis.read(sample_data / "DAVIS", 2017, "val", "a photo of a image")
    assert len(tables["sequences"]) >= 3
    assert {row["objects"] for row in tables["sequences"]} == {1, 2, 3}
    assert all(row["frames"] >= 12 for row in tables["sequences"])


def test_sample_is_the_same_for_a_seed_and_differs_for_another(sample_data: Path, tmp_path: Path) -> None:
    def content(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    sample.build_davis(tmp_path / "same", 0)
    sample.build_davis(tmp_path / "other", 1)
    assert content(tmp_path / "same") == content(sample_data / "DAVIS")
    assert content(tmp_path / "other") != content(sample_data / "DAVIS")


def test_tables_have_their_declared_schemas(sample_data: Path, tmp_path: Path) -> None:
    tables = spair.read(sample_data / "SPair-71k", "test", "unused", None)
    tables |= davis.read(sample_data / "DAVIS", 2017, "val", "p")
    write_tables(tmp_path, tables)
    assert set(tables) == set(SCHEMAS)
    for name, rows in tables.items():
        assert len(read_table(tmp_path, name)) == len(rows)


def test_foreign_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        read_table(tmp_path, "pairs")
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_table(tmp_path, "pairs")
    write_tables(tmp_path, {"prompts": [{"prompt": "x"}]})
    (tmp_path / "prompts.parquet").rename(tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="columns are not those"):
        read_table(tmp_path, "pairs")


PAIR = "000001-one-two:cat"


@pytest.fixture
def small_spair(tmp_path: Path) -> Path:
    """A data set of one pair."""
    root = tmp_path / "SPair-71k"
    images, pairs = root / "JPEGImages" / "cat", root / "PairAnnotation" / "test"
    images.mkdir(parents=True)
    pairs.mkdir(parents=True)
    for name in ("one", "two"):
        Image.new("RGB", (40, 30), "red").save(images / f"{name}.jpg")
    record = {
        "src_imname": "one.jpg",
        "trg_imname": "two.jpg",
        "src_imsize": [40, 30, 3],
        "trg_imsize": [40, 30, 3],
        "src_bndbox": [0, 0, 20, 20],
        "trg_bndbox": [5, 5, 30, 25],
        "category": "cat",
        "src_kps": [[1, 2], [39, 29]],
        "trg_kps": [[3, 4], [5, 6]],
        "kps_ids": ["0", "4"],
        "viewpoint_variation": 1,
        "scale_variation": 0,
        "truncation": 0,
        "occlusion": 3,
        "mirror": 0,
    }
    (pairs / f"{PAIR}.json").write_text(json.dumps(record))
    return root


def edit(**changes: Any) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        path = root / "PairAnnotation" / "test" / f"{PAIR}.json"
        record = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))

    return work


def put(name: str, data: bytes | None) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        path = root / name
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)

    return work


def link_out(root: Path) -> None:
    path = root / "JPEGImages/cat/one.jpg"
    path.rename(root.parent / "outside.jpg")
    path.symlink_to(root.parent / "outside.jpg")


def wide(root: Path) -> None:
    Image.new("L", (20000, 2)).save(root / "JPEGImages/cat/one.jpg", "PNG")


def deep(root: Path) -> None:
    Image.fromarray(np.full((30, 40), 60000, np.uint16)).save(root / "JPEGImages/cat/one.jpg", "PNG")


SPAIR_FAULTS = {
    "missing image": (put("JPEGImages/cat/two.jpg", None), r"cat/two\.jpg: not found"),
    "text as image": (put("JPEGImages/cat/two.jpg", b"hello"), r"two\.jpg: not a readable image"),
    "empty image": (put("JPEGImages/cat/two.jpg", b""), r"two\.jpg: not a readable image"),
    "wide image": (wide, r"one\.jpg: 20000x2 pixels"),
    "16-bit image": (deep, r"one\.jpg: I;16 pixels"),
    "link out": (link_out, r"one\.jpg: leads out of the data set"),
    "name out": (edit(src_imname="../../../outside.jpg"), "leads out of the data set"),
    "absolute name": (edit(src_imname="/etc/passwd"), "leads out of the data set"),
    "truncated json": (put(f"PairAnnotation/test/{PAIR}.json", b'{"src_imname": "o'), "Invalid JSON"),
    "not an object": (put(f"PairAnnotation/test/{PAIR}.json", b"[1, 2]"), "valid dictionary|object"),
    "binary json": (put(f"PairAnnotation/test/{PAIR}.json", b"\xff\xfe\x00"), "Invalid JSON"),
    "size disagrees": (edit(trg_imsize=[41, 30, 3]), r"trg_imsize: 41x30, but two\.jpg is 40x30"),
    "size absurd": (edit(trg_imsize=[-1, 30, 3]), "trg_imsize.0"),
    "keypoint outside": (edit(src_kps=[[1, 2], [40, 29]]), r"src_kps: \(40, 29\) lies outside one\.jpg"),
    "keypoint negative": (edit(trg_kps=[[-1, 2], [4, 4]]), r"trg_kps: \(-1, 2\) lies outside"),
    "keypoint NaN": (edit(src_kps=[[float("nan"), 2], [1, 1]]), "src_kps.0.0"),
    "keypoint text": (edit(src_kps=[["1", 2], [1, 1]]), "src_kps.0.0"),
    "keypoint fraction": (edit(src_kps=[[1.5, 2], [1, 1]]), "src_kps.0.0"),
    "unequal lists": (edit(src_kps=[[1, 2]]), "src_kps, trg_kps, kps_ids: 1, 2 and 2 entries"),
    "no keypoints": (edit(src_kps=[], trg_kps=[], kps_ids=[]), "src_kps"),
    "category disagrees": (edit(category="dog"), "category: 'dog' disagrees"),
    "field missing": (edit(trg_bndbox=...), "trg_bndbox: Field required"),
    "box without area": (edit(trg_bndbox=[5, 5, 5, 9]), "trg_bndbox: .* has no area"),
    "box infinite": (edit(trg_bndbox=[5, 5, float("inf"), 9]), "trg_bndbox"),
    "grade too high": (edit(occlusion=4), "occlusion"),
    "captions missing": (lambda root: None, r"captions\.json: not found"),
    "captions broken": (put("captions.json", b"{"), r"captions\.json: not a readable JSON"),
    "captions a list": (put("captions.json", b"[]"), r"captions\.json: not a map"),
}


@pytest.mark.parametrize("fault", SPAIR_FAULTS)
def test_broken_spair_is_told_in_one_line(small_spair: Path, fault: str) -> None:
    breaks, expected = SPAIR_FAULTS[fault]
    breaks(small_spair)
    captions = "captions.json" if fault.startswith("captions") else None
    with pytest.raises(UserError, match=expected) as caught:
        spair.read(small_spair, "test", "a {category}", captions)
    *lines, summary = str(caught.value).split("\n")
    assert summary.endswith("nothing was written")
    assert all(str(small_spair) in line for line in lines)


def test_all_problems_are_listed(small_spair: Path) -> None:
    edit(src_kps=[[100, 2], [1, 200]], trg_imsize=[4, 3, 3], category="cat")(small_spair)
    with pytest.raises(UserError) as caught:
        spair.read(small_spair, "test", "a {category}", None)
    assert "3 problems" in str(caught.value)


def test_a_wrong_root_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pair annotations"):
        spair.read(tmp_path, "test", "p", None)
    with pytest.raises(UserError, match=r"is .* the DAVIS folder"):
        davis.read(tmp_path, 2017, "val", "p")


def test_prompts_come_from_captions_where_there_are_any(small_spair: Path) -> None:
    (small_spair / "captions.json").write_text(json.dumps({"catone.jpg": "a tabby"}))
    rows = spair.read(small_spair, "test", "a photo of a {category}", "captions.json")["images"]
    assert [row["prompt"] for row in rows] == ["a tabby", "a photo of a cat"]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1"])
def test_images_of_other_modes_are_read(small_spair: Path, mode: str) -> None:
    image = Image.new(mode, (40, 30))
    image.save(small_spair / "JPEGImages/cat/one.jpg", "PNG" if mode in ("P", "1") else "JPEG")
    spair.read(small_spair, "test", "p", None)


@pytest.fixture
def small_davis(tmp_path: Path) -> Path:
    """A data set of one sequence of four frames."""
    root = tmp_path / "DAVIS"
    frames, masks = (root / kind / "480p" / "boat" for kind in ("JPEGImages", "Annotations"))
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (48, 32), "blue").save(frames / f"{number:05d}.jpg")
        mask = np.zeros((32, 48), np.uint8)
        mask[4:12, 4:12], mask[20:30, 20:30] = 1, 2
        save_mask(masks / f"{number:05d}.png", mask)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("boat\n")
    return root


def mask_of(size: tuple[int, int], mode: str) -> Callable[[Path], None]:
    return lambda root: Image.new(mode, size).save(root / "Annotations/480p/boat/00002.png")


DAVIS_FAULTS = {
    "missing mask": (put("Annotations/480p/boat/00002.png", None), r"00002\.png: not found"),
    "RGB mask": (mask_of((48, 32), "RGB"), r"00002\.png: mode RGB"),
    "small mask": (mask_of((24, 16), "L"), r"00002\.png: 24x16, but its frame is 48x32"),
    "broken mask": (put("Annotations/480p/boat/00002.png", b"x"), "not a readable mask"),
    "empty first mask": (
        lambda root: save_mask(root / "Annotations/480p/boat/00000.png", np.zeros((32, 48), np.uint8)),
        "shows no object",
    ),
    "first mask all void": (
        lambda root: save_mask(root / "Annotations/480p/boat/00000.png", np.full((32, 48), 255, np.uint8)),
        "shows no object",
    ),
    "gap": (put("JPEGImages/480p/boat/00002.jpg", None), "frame 00002 is missing"),
    "odd name": (put("JPEGImages/480p/boat/cover.jpg", b"x"), r"cover\.jpg is not numbered"),
    "broken frame": (put("JPEGImages/480p/boat/00001.jpg", b"x"), r"00001\.jpg: not a readable image"),
    "other size": (
        lambda root: Image.new("RGB", (60, 32)).save(root / "JPEGImages/480p/boat/00001.jpg"),
        "frames of different sizes",
    ),
    "name out": (put("ImageSets/2017/val.txt", b"../../boat\n"), "leads out of the data set|no frames"),
    "no sequence": (put("ImageSets/2017/val.txt", b"\n"), "names no sequence"),
    "unknown sequence": (put("ImageSets/2017/val.txt", b"boat\nship\n"), "ship: no frames"),
}


@pytest.mark.parametrize("fault", DAVIS_FAULTS)
def test_broken_davis_is_told(small_davis: Path, fault: str) -> None:
    breaks, expected = DAVIS_FAULTS[fault]
    breaks(small_davis)
    with pytest.raises(UserError, match=expected):
        davis.read(small_davis, 2017, "val", "p")


def test_davis_2016_has_one_object(small_davis: Path) -> None:
    for path in (small_davis / "Annotations/480p/boat").iterdir():
        grey = np.where(read_index_mask(path) > 0, 255, 0).astype(np.uint8)
        Image.fromarray(grey).save(path)
    lines = [f"/JPEGImages/480p/boat/{n:05d}.jpg /Annotations/480p/boat/{n:05d}.png" for n in range(4)]
    (small_davis / "ImageSets" / "480p").mkdir()
    (small_davis / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    tables = davis.read(small_davis, 2016, "val", "p")
    assert [row["objects"] for row in tables["sequences"]] == [1]
    assert set(np.unique(davis.read_mask(small_davis / tables["masks"][0]["path"], 2016))) == {0, 1}


def test_masks_keep_the_davis_palette(tmp_path: Path, real_davis: Path) -> None:
    real = next((real_davis / "Annotations/480p").rglob("*.png"))
    save_mask(tmp_path / "mask.png", read_index_mask(real))
    ours, theirs = Image.open(tmp_path / "mask.png"), Image.open(real)
    assert ours.mode == "P"
    assert ours.getpalette() == theirs.getpalette()
    np.testing.assert_array_equal(np.array(ours), np.array(theirs))
