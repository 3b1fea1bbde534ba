"""The sample data, the readers of the official layouts, and what they say of broken data sets."""

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ditf.data.catalog import SCHEMAS, Catalog, Tables, write_catalog
from ditf.data.images import read_rgb
from ditf.data.masks import decode_mask, read_index_mask, save_mask
from ditf.datasets.davis import Davis
from ditf.datasets.folder import Folder
from ditf.datasets.spair import IMAGES, SYMMETRIC, SPair
from ditf.datasets.spair_u import SPairU
from ditf.datasets.video import Video
from ditf.errors import UserError
from ditf.sample.davis import FRAMES, build_davis
from ditf.sample.objects import KINDS
from ditf.sample.pf_pascal import build_pf_pascal
from ditf.sample.photographs import PHOTOS
from ditf.sample.spair import build_spair
from tests.conftest import contents


def read_spair(root: Path, captions: str | None = None, prompt: str = "a {category}") -> Tables:
    return SPair(type="spair", root=str(root), captions=captions, prompt=prompt).read()


def read_davis(root: Path, year: Any = 2017) -> Tables:
    return Davis(type="davis", root=str(root), year=year).read()


def read_folder(root: Path, prompts: str | None = None, skip_unreadable: bool = False) -> Tables:
    kind = "a {category}"
    return Folder(type="folder", root=str(root), prompt=kind, prompts=prompts, skip_unreadable=skip_unreadable).read()


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    build_spair(root / "SPair-71k", 0)
    build_davis(root / "DAVIS", 0)
    return root


def test_sample_pairs_are_in_the_official_layout(sample_data: Path) -> None:
    tables = read_spair(sample_data / "SPair-71k", "captions.json").rows
    assert len({pair["category"] for pair in tables["pairs"]}) >= 5
    assert len(tables["pairs"]) >= 40
    assert len({row["prompt"] for row in tables["images"]}) == len(PHOTOS) + len(KINDS)
    assert {pair["viewpoint_variation"] for pair in tables["pairs"]} == {0, 1, 2}


def test_the_sample_is_the_same_whenever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, moment in (("one", "Thu Jan  1 00:00:00 1970"), ("two", "Fri Jan  2 00:00:00 1970")):
        monkeypatch.setattr(time, "asctime", lambda moment=moment: moment)  # which scipy writes into .mat files
        build_pf_pascal(tmp_path / name, 0)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_sample_keypoints_show_the_same_point(sample_data: Path) -> None:
    """Around a keypoint of a warped photograph both images look alike, up to the warp; around others they do not."""
    root = sample_data / "SPair-71k"
    tables = read_spair(root).rows
    images = {row["id"]: read_rgb(root / row["path"]).mean(2) for row in tables["images"]}
    pairs = {pair["pair"]: pair for pair in tables["pairs"]}

    def patch(name: str, x: int, y: int) -> np.ndarray[Any, Any]:
        pixels = np.pad(images[name], 4, mode="reflect")[y : y + 9, x : x + 9].ravel()
        return (pixels - pixels.mean()) / (pixels.std() + 1)

    right, wrong = [], []
    rows = [row for row in tables["keypoints"] if pairs[row["pair"]]["category"] in PHOTOS]
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        pair = pairs[row["pair"]]
        source = patch(pair["source"], int(row["source_x"]), int(row["source_y"]))
        right.append(float(source @ patch(pair["target"], int(row["target_x"]), int(row["target_y"]))))
        if other["pair"] == row["pair"]:
            wrong.append(float(source @ patch(pair["target"], int(other["target_x"]), int(other["target_y"]))))
    assert np.median(right) > 0.7 * 81
    assert np.median(wrong) < 0.3 * 81


def test_sample_videos_are_in_the_official_layout(sample_data: Path) -> None:
    tables = read_davis(sample_data / "DAVIS").rows
    assert len(tables["sequences"]) >= 3
    assert {row["objects"] for row in tables["sequences"]} == {1, 2, 3}
    assert all(row["frames"] == FRAMES for row in tables["sequences"])


def test_sample_is_the_same_for_a_seed_and_differs_for_another(sample_data: Path, tmp_path: Path) -> None:
    def content(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    build_davis(tmp_path / "same", 0)
    build_davis(tmp_path / "other", 1)
    assert content(tmp_path / "same") == content(sample_data / "DAVIS")
    assert content(tmp_path / "other") != content(sample_data / "DAVIS")


def test_a_catalog_gives_back_what_was_read(sample_data: Path, tmp_path: Path) -> None:
    for name, tables in (
        ("spair", read_spair(sample_data / "SPair-71k")),
        ("davis", read_davis(sample_data / "DAVIS")),
    ):
        write_catalog(tmp_path / name, tables)
        catalog = Catalog(tmp_path / name)
        assert catalog.resize == tables.resize
        for table, rows in tables.rows.items():
            assert catalog.rows(table) == rows
    assert Catalog(tmp_path / "spair").groups() == [
        *("category", "viewpoint_variation", "scale_variation", "truncation", "occlusion", "mirror")
    ]


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows of pairs do not fit"):
        write_catalog(tmp_path / "x", Tables({"pairs": [{"pair": 3}]}, "longer"))
    with pytest.raises(UserError, match="a table 'pear'"):
        write_catalog(tmp_path / "x", Tables({"pear": []}, "longer"))


def test_foreign_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        Catalog(tmp_path)
    (tmp_path / "images.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        Catalog(tmp_path)
    write_catalog(tmp_path, Tables({"frames": []}, "longer"))
    (tmp_path / "frames.parquet").rename(tmp_path / "images.parquet")
    with pytest.raises(UserError, match="columns are not those"):
        Catalog(tmp_path)
    assert set(SCHEMAS) >= {"images", "pairs", "keypoints", "sequences", "frames", "masks"}


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


def wide(root: Path) -> None:
    Image.new("L", (20000, 2)).save(root / "JPEGImages/cat/one.jpg", "PNG")


def floating(root: Path) -> None:
    Image.fromarray(np.full((30, 40), 0.5, np.float32)).save(root / "JPEGImages/cat/one.jpg", "TIFF")


SPAIR_FAULTS = {
    "missing image": (put("JPEGImages/cat/two.jpg", None), r"cat/two\.jpg: not found"),
    "text as image": (put("JPEGImages/cat/two.jpg", b"hello"), r"two\.jpg: not a readable image"),
    "empty image": (put("JPEGImages/cat/two.jpg", b""), r"two\.jpg: not a readable image"),
    "wide image": (wide, r"one\.jpg: 20000x2 pixels"),
    "floating-point image": (floating, r"one\.jpg: mode F"),
    "name out": (edit(src_imname="../../../outside.jpg"), "leads out of the data set"),
    "absolute name": (edit(src_imname="/etc/passwd"), r"JPEGImages/cat/etc/passwd: not found"),
    "truncated json": (put(f"PairAnnotation/test/{PAIR}.json", b'{"src_imname": "o'), "Invalid JSON"),
    "not an object": (put(f"PairAnnotation/test/{PAIR}.json", b"[1, 2]"), "valid dictionary|object"),
    "binary json": (put(f"PairAnnotation/test/{PAIR}.json", b"\xff\xfe\x00"), "line 1: not UTF-8 text"),
    "size disagrees": (edit(trg_imsize=[41, 30, 3]), r"trg_imsize: 41x30, but two\.jpg is 40x30"),
    "size absurd": (edit(trg_imsize=[-1, 30, 3]), "trg_imsize.0"),
    "keypoint NaN": (edit(src_kps=[[float("nan"), 2], [1, 1]]), "src_kps.0.0"),
    "keypoint text": (edit(src_kps=[["1", 2], [1, 1]]), "src_kps.0.0"),
    "unequal lists": (edit(src_kps=[[1, 2]]), "src_kps, trg_kps, kps_ids: 1, 2 and 2 entries"),
    "no keypoints": (edit(src_kps=[], trg_kps=[], kps_ids=[]), "src_kps"),
    "category disagrees": (edit(category="dog"), "category: 'dog' disagrees"),
    "field missing": (edit(trg_bndbox=...), "trg_bndbox: Field required"),
    "box without area": (edit(trg_bndbox=[5, 5, 5, 9]), "trg_bndbox: .* has no area"),
    "box infinite": (edit(trg_bndbox=[5, 5, float("inf"), 9]), "trg_bndbox"),
    "grade too high": (edit(occlusion=4), "occlusion"),
    "captions missing": (lambda root: None, r"captions\.json: not found"),
    "captions broken": (put("captions.json", b"{"), r"captions\.json: not valid JSON"),
    "captions a list": (put("captions.json", b"[]"), r"captions\.json: not a map"),
}


@pytest.mark.parametrize("fault", SPAIR_FAULTS)
def test_broken_spair_is_reported_in_one_line(small_spair: Path, fault: str) -> None:
    breaks, expected = SPAIR_FAULTS[fault]
    breaks(small_spair)
    captions = "captions.json" if fault.startswith("captions") else None
    with pytest.raises(UserError, match=expected) as caught:
        read_spair(small_spair, captions)
    *lines, summary = str(caught.value).split("\n")
    assert summary.endswith("nothing was written.")
    assert all(str(small_spair) in line for line in lines)


def test_all_problems_are_listed(small_spair: Path) -> None:
    edit(src_imsize=[100, 2, 3], trg_imsize=[4, 3, 3], trg_bndbox=[1, 1, 1, 2])(small_spair)
    with pytest.raises(UserError) as caught:
        read_spair(small_spair)
    assert "3 problems" in str(caught.value)


def test_a_keypoint_outside_its_image_is_a_warning(small_spair: Path) -> None:
    edit(src_kps=[[-1, 2], [40, 29]], trg_kps=[[3, 4], [50, -6]])(small_spair)
    rows = read_spair(small_spair).rows
    assert [(row["source_x"], row["source_y"]) for row in rows["keypoints"]] == [(0, 2), (39, 29)]
    assert [(row["target_x"], row["target_y"]) for row in rows["keypoints"]] == [(3, 4), (50, -6)]
    assert len(rows["warnings"]) == 3
    assert all("is outside" in row["warning"] and row["file"].endswith(".json") for row in rows["warnings"])


def test_keypoints_may_be_fractions_of_pixels(small_spair: Path) -> None:
    edit(src_kps=[[1.5, 2], [39, 29]], trg_kps=[[3.25, 4], [50.5, -6]])(small_spair)
    rows = read_spair(small_spair).rows
    assert (rows["keypoints"][0]["source_x"], rows["keypoints"][0]["target_x"]) == (1.5, 3.25)
    assert "trg_kps: (50.5, -6) is outside two.jpg" in rows["warnings"][0]["warning"]


def read_spair_u(root: Path) -> Tables:
    return SPairU(type="spair-u", root=str(root)).read()


def test_spair_u_beside_spair(small_spair: Path) -> None:
    """The layout of Jamais Vu: more annotations in SPair-71k's own folder."""
    extra = small_spair / "ExtraPairAnnotation/test"
    extra.mkdir(parents=True)
    record = json.loads((small_spair / f"PairAnnotation/test/{PAIR}.json").read_text())
    record |= {"src_kps": [[7, 8]], "trg_kps": [[9, 10]], "kps_ids": ["2"]}
    (extra / f"{PAIR}.json").write_text(json.dumps(record))
    tables = read_spair_u(small_spair).rows
    assert tables["keypoints"] == [
        {"pair": PAIR, "keypoint": 0, "name": "2", "source_x": 7, "source_y": 8, "target_x": 9, "target_y": 10}
    ]
    assert tables["pairs"] == read_spair(small_spair).rows["pairs"]
    assert [row["id"] for row in tables["images"]] == ["cat/one", "cat/two"]
    assert "geometry_aware" in read_spair(small_spair).rows["keypoints"][0]


def test_spair_u_in_a_folder_of_its_own(small_spair: Path, tmp_path: Path) -> None:
    """The layout of MARCO: the annotations, and a link to SPair-71k's images."""
    root = tmp_path / "SPair-U"
    root.mkdir()
    (small_spair / "PairAnnotation").rename(root / "PairAnnotation")
    (root / "JPEGImages").symlink_to(small_spair / "JPEGImages")
    tables = read_spair_u(root).rows
    assert [row["name"] for row in tables["keypoints"]] == ["0", "4"]
    assert all("geometry_aware" not in row for row in tables["keypoints"])
    entry = SPairU(type="spair-u", root=str(root))
    assert entry.counts() == {"categories": 1, "images": 2}
    assert (
        entry.release.counts == {"categories": len(SYMMETRIC), "images": IMAGES} == {"categories": 18, "images": 1800}
    )


def test_spair_itself_is_not_read_as_spair_u(small_spair: Path, tmp_path: Path) -> None:
    (small_spair / "PairAnnotation/trn").mkdir()
    with pytest.raises(
        UserError, match=r"has SPair-71k's split trn.*Put SPair-U's pairs into .*ExtraPairAnnotation/test"
    ):
        read_spair_u(small_spair)
    (small_spair / "ExtraPairAnnotation").mkdir()
    with pytest.raises(UserError, match=r"ExtraPairAnnotation/test: no pair annotations; is .* SPair-U's folder"):
        read_spair_u(small_spair)
    with pytest.raises(UserError, match="no pair annotations"):
        read_spair_u(tmp_path)


def test_a_wrong_root_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pair annotations"):
        read_spair(tmp_path)
    with pytest.raises(UserError, match=r"is .* the DAVIS folder"):
        read_davis(tmp_path)


def test_prompts_come_from_captions_where_there_are_any(small_spair: Path) -> None:
    (small_spair / "captions.json").write_text(json.dumps({"catone.jpg": "a tabby"}))
    rows = read_spair(small_spair, "captions.json", "a photo of a {category}").rows["images"]
    assert [row["prompt"] for row in rows] == ["a tabby", "a photo of a cat"]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1"])
def test_images_of_other_modes_are_read(small_spair: Path, mode: str) -> None:
    image = Image.new(mode, (40, 30))
    image.save(small_spair / "JPEGImages/cat/one.jpg", "PNG" if mode in ("P", "1") else "JPEG")
    read_spair(small_spair)


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
    "grey first mask": (
        lambda root: Image.new("L", (48, 32), 255).save(root / "Annotations/480p/boat/00000.png"),
        "set `year: 2016`",
    ),
}


@pytest.mark.parametrize("fault", DAVIS_FAULTS)
def test_broken_davis_is_reported(small_davis: Path, fault: str) -> None:
    breaks, expected = DAVIS_FAULTS[fault]
    breaks(small_davis)
    with pytest.raises(UserError, match=expected):
        read_davis(small_davis)


def test_davis_2016_has_one_object(small_davis: Path) -> None:
    for path in (small_davis / "Annotations/480p/boat").iterdir():
        grey = np.where(read_index_mask(path) > 0, 255, 0).astype(np.uint8)
        Image.fromarray(grey).save(path)
    lines = [f"/JPEGImages/480p/boat/{n:05d}.jpg /Annotations/480p/boat/{n:05d}.png" for n in range(4)]
    (small_davis / "ImageSets" / "480p").mkdir()
    (small_davis / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    tables = read_davis(small_davis, 2016).rows
    assert [row["objects"] for row in tables["sequences"]] == [1]
    assert set(np.unique(decode_mask(tables["masks"][0]["png"], Path("mask")))) == {0, 1}


def test_frames_are_in_the_order_of_their_numbers(small_davis: Path) -> None:
    for folder in ("JPEGImages/480p/boat", "Annotations/480p/boat"):
        for path in sorted((small_davis / folder).iterdir()):
            path.rename(path.with_stem(str(9 + int(path.stem))))
    assert [row["name"] for row in read_davis(small_davis).rows["frames"]] == ["9", "10", "11", "12"]


def test_names_of_sequences_may_have_spaces(small_davis: Path) -> None:
    for folder in ("JPEGImages", "Annotations"):
        (small_davis / folder / "480p/boat").rename(small_davis / folder / "480p/my boat")
    (small_davis / "ImageSets/2017/val.txt").write_text("my boat\n")
    assert [row["sequence"] for row in read_davis(small_davis).rows["sequences"]] == ["my boat"]


def test_masks_keep_the_davis_palette(tmp_path: Path, real_davis: Path) -> None:
    real = next((real_davis / "Annotations/480p").rglob("*.png"))
    save_mask(tmp_path / "mask.png", read_index_mask(real))
    ours, theirs = Image.open(tmp_path / "mask.png"), Image.open(real)
    assert ours.mode == "P"
    assert ours.getpalette() == theirs.getpalette()
    np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 30), (number * 20, 0, 0)).save(root / name)


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["a b.png", "cats/ü.jpg", "cats/deep/2.webp", ".hidden/x.png", "cats/.y.png"])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "list.csv").write_text("path,prompt\ncats/ü.jpg,a cat\n", encoding="utf-8")
    images = {row["id"]: (row["category"], row["prompt"]) for row in read_folder(tmp_path, "list.csv").rows["images"]}
    assert images == {
        "a b.png": ("image", "a image"),
        "cats/deep/2.webp": ("deep", "a deep"),
        "cats/ü.jpg": ("cats", "a cat"),
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,prompt\na.png,x\nnowhere.png,x\n", "nowhere.png: no such image"),
        ("name,text\na.png,x\n", "line 1: no column path; its columns are 'name', 'text'"),
        ("path,prompt\na.png,x\na.png,y\n", "line 3: a.png occurs twice"),
        ("path,prompt\na.png\n", "line 2: 1 fields, but the header has 2"),
        ('path,prompt\na.png,"open\n', "line 2: not valid CSV"),
        (None, "list.csv: not found"),
    ],
)
def test_a_wrong_list_of_prompts(tmp_path: Path, content: str | None, expected: str) -> None:
    write_images(tmp_path, ["a.png"])
    if content is not None:
        (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=expected):
        read_folder(tmp_path, "list.csv")


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no readable images"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        read_folder(tmp_path / "nowhere")


def test_every_format_that_can_be_read_is_taken(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.gif", "b.png", "c.tif", "d.JPG"])
    assert [row["id"] for row in read_folder(tmp_path).rows["images"]] == ["a.gif", "b.png", "c.tif", "d.JPG"]


def test_unreadable_images_can_be_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"bad\.png: not a readable image"):
        read_folder(tmp_path)
    rows = read_folder(tmp_path, skip_unreadable=True).rows
    assert [row["id"] for row in rows["images"]] == ["a.png", "b.png"]
    assert [Path(row["file"]).name for row in rows["warnings"]] == ["bad.png"]


def make_video(root: Path, count: int = 4) -> None:
    """Frames named frame1.png, frame2.png, ..., with true masks of the first two."""
    (root / "truth").mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (48, 32), (number * 10, 0, 0)).save(root / f"frame{number}.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(root / "mask.png")
    for number in (1, 2):
        save_mask(root / f"truth/frame{number}.png", (mask > 0).astype(np.uint8))


def read_video(root: Path, **more: Any) -> Tables:
    return Video(type="video", root=str(root), **more).read()


def test_a_video_needs_one_mask(tmp_path: Path) -> None:
    make_video(tmp_path / "clip", 11)
    rows = read_video(tmp_path / "clip").rows
    assert [row["name"] for row in rows["frames"]] == [f"frame{n}" for n in range(1, 12)]
    assert [row["objects"] for row in rows["sequences"]] == [1]
    assert len(rows["masks"]) == 1
    assert len(read_video(tmp_path / "clip", masks="truth").rows["masks"]) == 2


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        (put("mask.png", None), r"mask\.png: not found"),
        (lambda root: Image.new("L", (48, 32)).save(root / "mask.png"), "shows no object"),
        (lambda root: Image.new("L", (24, 32), 1).save(root / "mask.png"), "24x32, but the first frame is 48x32"),
        (lambda root: Image.new("RGB", (48, 32)).save(root / "mask.png"), "mode RGB"),
        (lambda root: Image.new("RGB", (40, 32)).save(root / "frame3.png"), "frames of different sizes"),
        (lambda root: Image.new("RGB", (48, 32)).save(root / "frame3.jpg"), "two frames have the same name"),
        (put("frame2.png", b"x"), r"frame2\.png: not a readable image"),
    ],
)
def test_a_broken_video_is_reported(tmp_path: Path, breaks: Callable[[Path], None], expected: str) -> None:
    make_video(tmp_path)
    breaks(tmp_path)
    with pytest.raises(UserError, match=expected):
        read_video(tmp_path)


def test_reading_images_in_threads_leaves_warnings_as_they_are(small_spair: Path) -> None:
    before = list(warnings.filters)
    for _ in range(5):
        read_spair(small_spair)
    assert list(warnings.filters) == before
