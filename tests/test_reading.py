"""What is true of the files of one data set is true of all: hidden files, links, encodings, names, and reports."""

import codecs
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from ditf.cli.app import app
from ditf.data.catalog import Tables
from ditf.data.images import read_rgb
from ditf.data.masks import encode_mask, read_object_mask, save_mask
from ditf.data.prepare_ap10k import prepare_ap10k
from ditf.data.reading import DatasetReader, check_file_names, first_lines, read_csv, read_json, read_text
from ditf.datasets.ade20k import ADE20K
from ditf.datasets.ap10k import AP10K
from ditf.datasets.base import Dataset
from ditf.datasets.cityscapes import Cityscapes
from ditf.datasets.davis import Davis
from ditf.datasets.folder import Folder
from ditf.datasets.hpatches import HPatches
from ditf.datasets.pascal_voc import PascalVOC
from ditf.datasets.pf_pascal import PFPascal
from ditf.datasets.pf_willow import PFWillow
from ditf.datasets.spair import SPair
from ditf.datasets.spair_u import SPairU
from ditf.datasets.video import Video
from ditf.errors import UserError
from ditf.metrics.classes import by_image
from ditf.report.tables import load_results
from ditf.sample.ade20k import build_ade20k
from ditf.sample.ap10k import build_ap10k
from ditf.sample.davis import build_davis
from ditf.sample.pf_pascal import build_pf_pascal
from ditf.sample.pf_willow import build_pf_willow
from ditf.sample.photos import build_photos
from ditf.sample.spair import build_spair
from ditf.tasks.propagation import evaluate
from tests.test_class_masks import make_cityscapes, make_voc
from tests.test_datasets import make_video, write_images
from tests.test_homography import make as make_sequences

KINDS: dict[str, type[Dataset]] = {
    "ade20k": ADE20K,
    "ap10k": AP10K,
    "cityscapes": Cityscapes,
    "davis": Davis,
    "folder": Folder,
    "hpatches": HPatches,
    "pascal_voc": PascalVOC,
    "pf_pascal": PFPascal,
    "pf_willow": PFWillow,
    "spair": SPair,
    "spair_u": SPairU,
    "video": Video,
}
SETTINGS: dict[str, dict[str, Any]] = {"hpatches": {"keypoints": None}, "video": {"masks": "truth"}}
# A text file of each data set that has one.
TEXT_FILES = {
    "ap10k": "PairAnnotation/test/*.json",
    "davis": "ImageSets/2017/val.txt",
    "folder": "prompts.csv",
    "hpatches": "*/H_1_2",
    "pascal_voc": "ImageSets/Segmentation/val.txt",
    "pf_pascal": "test_pairs_pf_pascal.csv",
    "pf_willow": "test_pairs.csv",
    "spair": "PairAnnotation/test/*.json",
    "spair_u": "PairAnnotation/test/*.json",
}
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(80)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of each type, by the name of the type; not to be changed."""
    folder = tmp_path_factory.mktemp("sets")
    build_ade20k(folder / "ade20k", 0)
    build_ap10k(folder / "ap10k", 0)
    prepare_ap10k(folder / "ap10k", 0, None)
    make_cityscapes(folder / "cityscapes")
    build_davis(folder / "davis", 0)
    build_photos(folder / "folder")
    make_sequences(folder / "hpatches")
    make_voc(folder / "pascal_voc")
    build_pf_pascal(folder / "pf_pascal", 0)
    build_pf_willow(folder / "pf_willow", 0)
    build_spair(folder / "spair", 0)
    shutil.copytree(folder / "spair", folder / "spair_u")  # the same layout
    make_video(folder / "video")
    return folder


def read(kind: str, root: Path, **settings: Any) -> Tables:
    return KINDS[kind](type=kind, root=str(root), **SETTINGS.get(kind, {}), **settings).read()


def without_warnings(tables: Tables) -> dict[str, Any]:
    return {name: rows for name, rows in tables.rows.items() if name != "warnings"}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_are_left_out_of_every_data_set(samples: Path, tmp_path: Path, kind: str) -> None:
    root = tmp_path / kind
    shutil.copytree(samples / kind, root)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        suffixes = {path.suffix for path in folder.iterdir() if path.is_file()}
        for suffix in suffixes or {".jpg"}:
            (folder / f"._0{suffix}").write_bytes(APPLE_DOUBLE)
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "Thumbs.db").write_bytes(b"x")
    tables = read(kind, root)
    assert without_warnings(tables) == without_warnings(read(kind, samples / kind))
    listed = kind not in ("hpatches", "pascal_voc", "pf_pascal", "pf_willow")  # these name every file that they read
    assert any("left out: hidden" in row["warning"] for row in tables.rows["warnings"]) == listed


@pytest.mark.parametrize("kind", KINDS)
def test_links_of_the_user_are_followed_in_every_data_set(samples: Path, tmp_path: Path, kind: str) -> None:
    """Files as links into another folder, as DVC and git-annex leave them."""
    root, store = tmp_path / kind, tmp_path / "store"
    shutil.copytree(samples / kind, root)
    store.mkdir()
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        path.rename(store / str(number))
        path.symlink_to(store / str(number))
    assert read(kind, root).rows == read(kind, samples / kind).rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_to_the_folder_of_every_data_set_is_followed(samples: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / kind).symlink_to(samples / kind)
    assert read(kind, tmp_path / kind).rows.keys() == read(kind, samples / kind).rows.keys()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", TEXT_FILES)
def test_byte_order_marks_are_read_in_every_data_set(samples: Path, tmp_path: Path, kind: str, encoding: str) -> None:
    root = tmp_path / kind
    shutil.copytree(samples / kind, root)
    for path in root.glob(TEXT_FILES[kind]):
        path.write_text(path.read_text().replace("\n", "\r\n"), encoding=encoding, newline="")
    assert read(kind, root).rows == read(kind, samples / kind).rows


@pytest.mark.parametrize("kind", TEXT_FILES)
def test_text_that_is_not_utf8_is_named_with_its_line(samples: Path, tmp_path: Path, kind: str) -> None:
    root = tmp_path / kind
    shutil.copytree(samples / kind, root)
    path = min(root.glob(TEXT_FILES[kind]))
    path.write_bytes(path.read_bytes() + b"\ncaf\xe9,x\n")
    with pytest.raises(UserError, match=rf"{path.name}: line \d+: not UTF-8 text. Save the file as UTF-8"):
        read(kind, root)


@pytest.mark.parametrize("kind", KINDS)
def test_suffixes_may_be_in_upper_case(samples: Path, tmp_path: Path, kind: str) -> None:
    root = tmp_path / kind
    shutil.copytree(samples / kind, root)
    for path in [path for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".ppm", ".json", ".mat")]:
        if path.parent != root or kind == "video":
            path.rename(path.with_suffix(path.suffix.upper()))
    expected, tables = read(kind, samples / kind), read(kind, root)
    assert [row["sha256"] for row in tables.rows["images"]] == [row["sha256"] for row in expected.rows["images"]]
    assert [*tables.rows] == [*expected.rows]
    assert all((root / row["path"]).is_file() for row in tables.rows["images"])


def test_names_in_lists_find_files_in_decomposed_unicode(samples: Path, tmp_path: Path) -> None:
    """macOS decomposes the names of files; lists have them composed."""
    composed, decomposed = "Café", unicodedata.normalize("NFD", "Café")
    folder = tmp_path / "folder"
    write_images(folder, [f"{decomposed}/{decomposed}.jpg"])
    (folder / "prompts.csv").write_text(f"path,prompt\n{composed}/{composed}.jpg,a cup\n")
    assert [row["prompt"] for row in read("folder", folder).rows["images"]] == ["a cup"]

    davis = tmp_path / "davis"
    shutil.copytree(samples / "davis", davis)
    for place in ("JPEGImages", "Annotations"):
        (davis / place / "480p/one-disc").rename(davis / place / "480p" / decomposed)
    (davis / "ImageSets/2017/val.txt").write_text(f"{composed}\n")
    tables = read("davis", davis)
    assert [row["sequence"] for row in tables.rows["sequences"]] == [composed]
    assert all((davis / row["path"]).is_file() for row in tables.rows["images"])

    spair = tmp_path / "spair"
    shutil.copytree(samples / "spair", spair)
    (spair / "JPEGImages/cat").rename(spair / "JPEGImages" / decomposed)
    for path in [*spair.glob("PairAnnotation/test/*.json")]:
        if ":cat" in path.name:
            path.with_name(path.name.replace(":cat", f":{composed}")).write_text(
                json.dumps(json.loads(path.read_text()) | {"category": composed})
            )
            path.unlink()
    assert composed in {row["category"] for row in read("spair", spair).rows["images"]}


def test_files_that_are_left_out_are_counted_with_the_reason(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write_images(root, ["a.jpg", "sub/b.jpg"])
    write_images(tmp_path / "elsewhere", ["x.jpg"])
    (root / "linked").symlink_to("../elsewhere")
    (root / "sub/back").symlink_to(root)
    (root / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "IMG_2.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "b.jxl").write_bytes(b"\xff\x0a")
    (root / "notes.txt").write_text("x")
    os.mkfifo(root / "pipe.jpg")
    tables = read("folder", root).rows
    assert [row["id"] for row in tables["images"]] == ["a.jpg", "linked/x.jpg", "sub/b.jpg"]
    warnings = "\n".join(row["warning"] for row in tables["warnings"])
    assert "2 files left out: HEIC images cannot be read; convert them to JPEG (" in warnings
    assert "1 file left out: JPEG XL images cannot be read; convert them to JPEG or PNG (b.jxl)" in warnings
    assert "1 file left out: not an image (notes.txt)" in warnings
    assert "1 file left out: link to a folder above it (sub/back)" in warnings
    assert "1 file left out: not a regular file (pipe.jpg)" in warnings


def test_a_folder_of_nothing_but_heic_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"no readable images. 1 file left out: HEIC images cannot be read; convert them"
    ):
        read("folder", tmp_path)


def test_ten_problems_are_printed_and_all_are_counted(samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples / "davis", tmp_path / "davis")
    for path in (tmp_path / "davis/Annotations/480p").glob("t*/*.png"):
        path.unlink()
    with pytest.raises(UserError) as caught:
        read("davis", tmp_path / "davis")
    lines = str(caught.value).split("\n")
    assert len(lines) == 12
    assert lines[-2] == "... and 6 more"
    assert "16 problems in the data set; nothing was written" in lines[-1]
    assert first_lines(["x"] * 10) == ["x"] * 10


def test_skip_unreadable_is_named_where_it_helps(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="Set `skip_unreadable: true` to leave out files that cannot be read"):
        read("folder", tmp_path)
    tables = read("folder", tmp_path, skip_unreadable=True)
    assert [row["id"] for row in tables.rows["images"]] == ["a.png"]
    assert any("which does not exist" in row["warning"] for row in tables.rows["warnings"])


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    for name in (b"caf\xe9.jpg", b"d\xe9/x.jpg"):
        path = os.fsencode(tmp_path) + b"/" + name
        Path(os.fsdecode(path)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).write_bytes((tmp_path / "a.jpg").read_bytes())
    with pytest.raises(UserError, match=r"caf\\xe9\.jpg: its name is not UTF-8. Rename it") as caught:
        read("folder", tmp_path)
    assert r"d\xe9: its name is not UTF-8" in str(caught.value)
    str(caught.value).encode("utf-8")
    with pytest.raises(UserError, match=r"caf\\xe9\.jpg: its name is not UTF-8"):
        check_file_names(tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a\0b"])
def test_names_in_annotations_stay_in_the_data_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="leads out of the data set"):
        DatasetReader(tmp_path).locate(name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,prompt\na.jpg,a cat, sitting\n", r"line 2: 3 fields, but the header has 2. Put text .* double quotes"),
        ('path,prompt\na.jpg,"a "small" cat"\n', "line 2: not valid CSV"),
        ("path;prompt\na.jpg;a cat\n", "no column path; its columns are 'path;prompt'"),
        ("path,prompt\nb.jpg,x\n", r"none of its 1 paths is one of the data set's. It has 'b.jpg'; .* has 'a.jpg'"),
    ],
)
def test_prompts_are_never_cut_or_ignored(tmp_path: Path, content: str, expected: str) -> None:
    write_images(tmp_path, ["a.jpg"])
    (tmp_path / "prompts.csv").write_text(content)
    with pytest.raises(UserError, match=rf"prompts\.csv: .*{expected}"):
        read("folder", tmp_path)


def test_prompts_of_a_folder_are_optional(samples: Path, tmp_path: Path) -> None:
    write_images(tmp_path, ["cats/a.jpg"])
    assert [row["prompt"] for row in read("folder", tmp_path).rows["images"]] == ["a photo of a cats"]
    assert "a cup of coffee on a wooden table" in {
        row["prompt"] for row in read("folder", samples / "folder").rows["images"]
    }
    with pytest.raises(UserError, match=r"list\.csv: not found. Set `prompts`"):
        read("folder", tmp_path, prompts="list.csv")


def test_captions_are_optional_and_never_ignored(samples: Path, tmp_path: Path) -> None:
    root = tmp_path / "spair"
    shutil.copytree(samples / "spair", root)
    captions = json.loads((root / "captions.json").read_text())
    assert {row["prompt"] for row in read("spair", root).rows["images"]} == set(captions.values())
    (root / "captions.json").write_text(json.dumps({f"{key[:3]}/{key[3:]}": text for key, text in captions.items()}))
    with pytest.raises(UserError, match=r"captions\.json: none of its \d+ keys .* It has '.*/.*'; the data set has '"):
        read("spair", root)
    captions.pop(min(captions))
    (root / "captions.json").write_text(json.dumps(captions))
    warnings = [row["warning"] for row in read("spair", root).rows["warnings"]]
    assert any(text.startswith("no caption for 1 of 68 images") for text in warnings)
    (root / "captions.json").unlink()
    assert "a photo of a cat" in {row["prompt"] for row in read("spair", root).rows["images"]}


def turn(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("RGB", (48, 32)).save(path, "JPEG", exif=exif)


def test_masks_of_images_that_exif_turns(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/training/a.jpg", "images/validation/b.jpg"])
    for name, size in (("training/a", (48, 32)), ("validation/b", (41, 30))):
        path = tmp_path / f"annotations/{name}.png"
        path.parent.mkdir(parents=True)
        Image.new("L", size, 1).save(path)
    turn(tmp_path / "images/training/a.jpg", 6)
    with pytest.raises(UserError, match=r"a\.png: 48x32, but its image is 32x48 once it is turned upright by its EXIF"):
        read("ade20k", tmp_path)
    turn(tmp_path / "images/training/a.jpg", 3)
    warnings = [row["warning"] for row in read("ade20k", tmp_path).rows["warnings"]]
    assert any("its EXIF orientation (3) turns it" in text for text in warnings)


def test_masks_that_show_no_class_are_used(samples: Path, tmp_path: Path) -> None:
    root = tmp_path / "ade20k"
    shutil.copytree(samples / "ade20k", root)
    masks = sorted((root / "annotations/training").iterdir())
    save_mask(masks[0], np.zeros((128, 160), np.uint8))
    tables = read("ade20k", root).rows
    assert len(tables["masks"]) == 24
    assert any("1 of 16 masks show no class" in row["warning"] for row in tables["warnings"])
    for path in masks:
        save_mask(path, np.zeros((128, 160), np.uint8))
    with pytest.raises(UserError, match="like all masks of its part, shows none of the classes"):
        read("ade20k", root)


def test_an_image_without_a_class_adds_nothing_to_the_metrics() -> None:
    assert list(by_image("a", np.zeros((4, 4)))) == []


def test_first_masks_are_enough_for_a_video(samples: Path, tmp_path: Path) -> None:
    root = tmp_path / "davis"
    shutil.copytree(samples / "davis", root)
    (root / "ImageSets/2017/val.txt").rename(root / "ImageSets/2017/test-dev.txt")
    for path in (root / "Annotations").rglob("*.png"):
        if path.stem != "00000":
            path.unlink()
    tables = read("davis", root, split="test-dev").rows
    assert len(tables["masks"]) == len(tables["sequences"]) == 5
    assert len(tables["frames"]) == 40
    assert sum("propagated and not scored" in row["warning"] for row in tables["warnings"]) == 5


def test_only_frames_of_the_sequence_are_frames(tmp_path: Path) -> None:
    make_video(tmp_path)
    for odd in ("mask_old.png", "frame1_mask.png", "cover.jpg"):
        Image.new("RGB", (48, 32)).save(tmp_path / odd)
        with pytest.raises(UserError, match=rf"{odd}: not named like the frames, such as frame\d.png"):
            read("video", tmp_path)
        (tmp_path / odd).unlink()
    assert len(read("video", tmp_path).rows["frames"]) == 4


def paint(values: dict[int, tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A mask with a square of each value at (x, y)."""
    mask = np.zeros((32, 48), np.uint8)
    for value, (x, y) in values.items():
        mask[y : y + 10, x : x + 10] = value
    return mask


def soft(mask: Any) -> Image.Image:
    """The mask as a picture with soft edges, as graphics programs save it."""
    return Image.fromarray(mask * 255).resize((96, 64), Image.Resampling.BICUBIC).resize((48, 32))


ENCODINGS: dict[str, tuple[str, Callable[[Any], Image.Image]]] = {
    "1": ("png", lambda mask: Image.fromarray(mask)),
    "255": ("png", lambda mask: Image.fromarray(mask * 255)),
    "128": ("png", lambda mask: Image.fromarray(mask * 128)),
    "bits": ("png", lambda mask: Image.fromarray(mask * 255).convert("1")),
    "JPEG": ("jpg", lambda mask: Image.fromarray(mask * 255)),
    "color JPEG": ("jpg", lambda mask: Image.fromarray(mask * 255).convert("RGB")),
    "soft": ("png", soft),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_object_may_be_painted_in_any_way(tmp_path: Path, encoding: str) -> None:
    make_video(tmp_path)
    suffix, encode = ENCODINGS[encoding]
    mask = paint({1: (4, 4)})
    (tmp_path / "mask.png").unlink()
    encode(mask).save(tmp_path / f"mask.{suffix}")
    for path in (tmp_path / "truth").iterdir():
        path.unlink()
        encode(mask).save(path.with_suffix(f".{suffix}"))
    tables = read("video", tmp_path, mask=f"mask.{suffix}").rows
    assert [row["objects"] for row in tables["sequences"]] == [1]
    assert [row["png"] for row in tables["masks"]] == [encode_mask(mask)] * 2


def test_objects_are_numbered_without_gaps(tmp_path: Path) -> None:
    make_video(tmp_path)
    first = paint({50: (4, 4), 100: (24, 4), 255: (4, 20)})
    Image.fromarray(first).save(tmp_path / "mask.png")
    Image.fromarray(paint({50: (5, 5), 100: (25, 5), 7: (30, 20)})).save(tmp_path / "truth/frame2.png")
    tables = read("video", tmp_path).rows
    assert tables["sequences"][0]["objects"] == 2
    assert tables["masks"][0]["png"] == encode_mask(paint({1: (4, 4), 2: (24, 4), 255: (4, 20)}))
    assert tables["masks"][1]["png"] == encode_mask(paint({1: (5, 5), 2: (25, 5)}))
    assert any("[7] are not in the first mask" in row["warning"] for row in tables["warnings"])


def test_true_masks_of_other_names_are_an_error(tmp_path: Path) -> None:
    make_video(tmp_path)
    for path in (tmp_path / "truth").iterdir():
        path.rename(path.with_name(f"mask_{path.name}"))
    with pytest.raises(
        UserError, match=r"none of its 2 masks' names .* It has 'mask_frame1'; the data set has 'frame1'"
    ):
        read("video", tmp_path)


@pytest.mark.parametrize("picture", [Image.new("L", (48, 32), 90), Image.linear_gradient("L").resize((48, 32))])
def test_pictures_that_are_no_masks_are_refused(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "mask.jpg")
    with pytest.raises(UserError, match="neither an index mask nor a picture of one white object"):
        read_object_mask(tmp_path / "mask.jpg")


def test_objects_that_no_mask_shows_are_not_scored(tmp_path: Path) -> None:
    true = paint({1: (4, 4), 3: (24, 4)})
    save_mask(tmp_path / "predicted.png", true)
    frames = [(encode_mask(true), tmp_path / "predicted.png")] * 2
    numbers, values = evaluate(frames, 3, encode_mask(true))
    assert numbers == [1, 3]
    assert values.shape == (2, 2, 2)


def test_large_metadata_does_not_hide_an_image(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * 80_000_000, zip=True)
    info.add_text("log", "y" * 3_000_000, zip=True)
    Image.new("RGB", (60, 40), (200, 40, 10)).save(tmp_path / "a.png", pnginfo=info)
    assert read_rgb(tmp_path / "a.png").shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"path,prompt\n", "a text file, not an image"),
        ("Übung\n".encode(), "a text file, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Run `git lfs pull`"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC images cannot be read; convert them to JPEG"),
        (b"\xff\x0a" + bytes(20), "JPEG XL images cannot be read"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.jpg: .*{expected}"):
        read_rgb(tmp_path / "a.jpg")


def test_text_and_tables(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(codecs.BOM_UTF8 + b'a, b\r\n1,"x, y"\r\n\r\n,\r\n2, z\r\n')
    assert read_csv(path, ("a", "b")) == {2: {"a": "1", "b": "x, y"}, 5: {"a": "2", "b": "z"}}
    path.write_text("[1, 2]", encoding="utf-16")
    assert read_json(path) == [1, 2]
    assert read_text(path) == "[1, 2]"
    with pytest.raises(UserError, match=r"nowhere\.txt: not found"):
        read_text(tmp_path / "nowhere.txt")


def test_names_that_are_numbers_stay_text(tmp_path: Path) -> None:
    (tmp_path / "jf_frames.csv").write_text("descriptor,sequence,frame,J&F\noriginal,0001,00012,0.5\n")
    (tmp_path / "pck.csv").write_text("descriptor,group,alpha,value,pairs,image\noriginal,occlusion,0.1,0,3,55.5\n")
    (tmp_path / "recall.csv").write_text("metric,value\nrecall@1,0.9\n")
    tables = load_results(tmp_path)
    assert tables["jf_frames"].to_pylist() == [
        {"descriptor": "original", "sequence": "0001", "frame": "00012", "J&F": 0.5}
    ]
    assert tables["pck"].to_pylist() == [
        {"descriptor": "original", "group": "occlusion", "alpha": 0.1, "value": "0", "pairs": 3, "image": 55.5}
    ]
    assert tables["recall"].to_pylist() == [{"metric": "recall@1", "value": 0.9}]


def make_clip(path: Path, frames: int = 30) -> None:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for number in range(frames):
        writer.write(np.full((64, 96, 3), number * 8, np.uint8))
    writer.release()


def test_frames_of_a_cut_video_come_with_a_warning(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.avi")
    result = CliRunner().invoke(app, ["frames", str(tmp_path / "clip.avi"), str(tmp_path / "all"), "--every", "2"])
    assert result.exit_code == 0
    assert "warning" not in result.output
    assert len(list((tmp_path / "all").iterdir())) == 15
    data = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 6 // 10])
    result = CliRunner().invoke(app, ["frames", str(tmp_path / "cut.avi"), str(tmp_path / "cut")])
    assert result.exit_code == 0
    count = len(list((tmp_path / "cut").iterdir()))
    assert f"reading stopped after frame {count} of 30" in result.output


def test_frames_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.avi")
    (tmp_path / "file").write_text("in the way")
    for command in (["clip.avi", "file/frames"], ["nowhere.avi", "frames"]):
        result = CliRunner().invoke(app, ["frames", *(str(tmp_path / name) for name in command)])
        assert result.exit_code == 2
        assert len(result.output.strip().split("\n")) == 1
