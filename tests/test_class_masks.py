"""Pascal VOC and Cityscapes, in layouts that the tests make."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from ditf.data.catalog import Catalog, Tables, write_catalog
from ditf.data.masks import decode_mask, save_mask
from ditf.datasets.base import Dataset
from ditf.datasets.cityscapes import LABELS, Cityscapes
from ditf.datasets.pascal_voc import CLASSES, PascalVOC
from ditf.datasets.pf_pascal import CLASSES as CATEGORIES
from ditf.errors import UserError
from ditf.tasks.segmentation import classes_of
from tests.conftest import Project

HEIGHT, WIDTH = 48, 64
LISTS = {"train": ["2007_000032", "2007_000039"], "trainaug": ["2007_000032", "2008_000002"], "val": ["2007_000033"]}
STREETS = {
    "train": ["aachen/aachen_000000_000019", "bochum/bochum_000000_000313"],
    "val": ["lindau/lindau_000000_000019"],
}
VEHICLES = {"car": 26, "caravan": 29, "ego vehicle": 1, "bus": 28}  # label ids


def halves(left: int, right: int) -> NDArray[np.uint8]:
    """A mask of two classes with a void column between them."""
    mask = np.full((HEIGHT, WIDTH), left, np.uint8)
    mask[:, WIDTH // 2 :] = right
    mask[:, WIDTH // 2] = 255
    return mask


def write(path: Path, mask: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mask(path, mask)


def picture(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write an image whose colour says the class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    Image.fromarray(colours[mask]).save(path)


def make_voc(root: Path) -> None:
    """Three images of Pascal VOC, and one that only the Semantic Boundaries Dataset has a mask of."""
    for number, name in enumerate(sorted({name for names in LISTS.values() for name in names})):
        mask = halves(0, number + 12)
        picture(root / f"JPEGImages/{name}.jpg", mask)
        write(root / ("SegmentationClassAug" if name == "2008_000002" else "SegmentationClass") / f"{name}.png", mask)
    for name, images in LISTS.items():
        path = root / f"ImageSets/Segmentation/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{image}\n" for image in images))


def make_cityscapes(root: Path) -> None:
    """Three images of Cityscapes. The one of Bochum has label ids only, as in the release; others have train ids."""
    for split, names in STREETS.items():
        for name in names:
            labels = halves(VEHICLES["car"], VEHICLES["bus"])
            labels[:8], labels[-8:], labels[:, WIDTH // 2] = VEHICLES["caravan"], VEHICLES["ego vehicle"], 0
            picture(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", labels)
            write(root / f"gtFine/{split}/{name}_gtFine_labelIds.png", labels)
            if "bochum" not in name:
                classes = halves(13, 15)
                classes[:8] = classes[-8:] = 255
                write(root / f"gtFine/{split}/{name}_gtFine_labelTrainIds.png", classes)


def voc(root: Path, **settings: Any) -> Dataset:
    return PascalVOC(type="pascal-voc", root=str(root), **settings)


def cityscapes(root: Path) -> Dataset:
    return Cityscapes(type="cityscapes", root=str(root))


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    make_voc(tmp_path / "VOC2012")
    return tmp_path / "VOC2012"


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    make_cityscapes(tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


def test_pascal_voc_has_21_classes_and_void(voc_root: Path) -> None:
    rows = voc(voc_root).read().rows
    assert [(row["id"], row["category"]) for row in rows["images"]] == [
        ("2007_000032", "train"),
        ("2007_000039", "train"),
        ("2007_000033", "test"),
    ]
    assert [row["index"] for row in rows["classes"]] == list(range(21))
    assert rows["classes"][0]["name"] == "background"
    assert [row["name"] for row in rows["classes"][1:]] == CATEGORIES == CLASSES[1:]
    mask = decode_mask(rows["masks"][2]["png"], voc_root)
    assert np.unique(classes_of(mask, 0, 21)).tolist() == [0, 13, 255]
    assert rows["warnings"] == []


def test_the_augmented_list_takes_masks_that_the_release_does_not_have(voc_root: Path) -> None:
    write(voc_root / "SegmentationClassAug/2007_000032.png", halves(7, 7))
    rows = voc(voc_root, train="trainaug").read().rows
    assert [row["id"] for row in rows["images"]] == ["2007_000032", "2008_000002", "2007_000033"]
    values = [np.unique(decode_mask(row["png"], voc_root)).tolist() for row in rows["masks"]]
    assert values == [[0, 12, 255], [0, 15, 255], [0, 13, 255]]  # the mask of the release comes first


def test_label_ids_of_cityscapes_become_train_ids(streets: Path) -> None:
    rows = cityscapes(streets).read().rows
    ids = [f"{split}/{name}" for split, names in STREETS.items() for name in names]
    assert [row["id"] for row in rows["images"]] == ids
    assert [row["category"] for row in rows["images"]] == ["train", "train", "test"]
    trained, mapped, _ = (decode_mask(row["png"], streets) for row in rows["masks"])
    np.testing.assert_array_equal(mapped, trained)
    assert np.unique(mapped).tolist() == [13, 15, 255]
    assert {row["index"]: row["name"] for row in rows["classes"]}[13] == "car"
    assert len(rows["classes"]) == len(LABELS) == 19


def test_every_label_id_has_its_train_id(streets: Path) -> None:
    """The order of the scored label ids is that of `helpers/labels.py` of cityscapesScripts."""
    scored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = dict(zip(scored, range(19), strict=True))
    labels = np.tile(np.arange(34, dtype=np.uint8), (HEIGHT, 2))[:, :WIDTH]
    write(streets / "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png", labels)
    mapped = decode_mask(cityscapes(streets).read().rows["masks"][1]["png"], streets)
    assert mapped[0].tolist() == [expected.get(label, 255) for label in labels[0].tolist()]


def test_counts_are_those_of_the_release(voc_root: Path, streets: Path) -> None:
    assert voc(voc_root).counts() == {"training images": 2, "validation images": 1}
    (voc_root / "JPEGImages/2007_000032.jpg").unlink()
    (voc_root / "ImageSets/Segmentation/val.txt").unlink()
    assert voc(voc_root).counts() == {"training images": 1, "validation images": 0}
    assert cityscapes(streets).counts() == {"training images": 2, "validation images": 1}
    (streets / "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png").unlink()
    assert cityscapes(streets).counts() == {"training images": 1, "validation images": 1}
    releases = [voc(voc_root), voc(voc_root, train="trainaug"), cityscapes(streets)]
    numbers = [list(each.release.counts.values()) for each in releases if each.release]
    assert numbers == [[1_464, 1_449], [10_582, 1_449], [2_975, 500]]
    assert voc(voc_root, train="mine").release is None


def catalog(folder: Path, images: int, classes: int) -> Catalog:
    """Write a catalog with rows for so many images and classes."""
    image = {"path": "a.png", "sha256": "", "pixels_sha256": "", "width": 8, "height": 8, "category": "test"}
    rows: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": str(n), "prompt": "", **image} for n in range(images)],
        "classes": [{"index": n, "name": str(n)} for n in range(classes)],
    }
    write_catalog(folder, Tables(rows, "longer"))
    return Catalog(folder)


def test_official_splits_are_recognized(voc_root: Path, streets: Path, tmp_path: Path) -> None:
    short = catalog(tmp_path / "voc", 1_464 + 1_449, 21)
    assert voc(voc_root).official_split(short) == "Pascal VOC 2012 val, trained on train"
    assert voc(voc_root, train="trainaug").official_split(short) == ""
    long = catalog(tmp_path / "trainaug", 10_582 + 1_449, 21)
    assert voc(voc_root, train="trainaug").official_split(long) == "Pascal VOC 2012 val, trained on trainaug"
    assert cityscapes(streets).official_split(catalog(tmp_path / "streets", 3_475, 19)) == "Cityscapes val"
    assert cityscapes(streets).official_split(catalog(tmp_path / "fewer", 3_474, 19)) == ""


Break = Callable[[Path], Any]
VOC_BROKEN: list[tuple[Break, str]] = [
    (lambda r: shutil.rmtree(r / "ImageSets"), "train.txt: not found; is"),
    (lambda r: (r / "ImageSets/Segmentation/val.txt").write_text("\n"), "val.txt: names no images"),
    (lambda r: (r / "ImageSets/Segmentation/val.txt").write_text("/a.jpg /a.png\n"), "Write one name per line"),
    (lambda r: (r / "ImageSets/Segmentation/val.txt").write_text("2007_000032\n"), "is in the list train as well"),
    (lambda r: (r / "ImageSets/Segmentation/val.txt").write_text("../../x\n"), "leads out of the data set"),
    (lambda r: (r / "SegmentationClass/2007_000033.png").unlink(), "SegmentationClass/2007_000033.png: not found"),
    (lambda r: (r / "JPEGImages/2007_000033.jpg").unlink(), "2007_000033.jpg: not found"),
    (
        lambda r: write(r / "SegmentationClass/2007_000033.png", halves(0, 21)),
        "has the index 21, but the classes end at 20",
    ),
    (lambda r: write(r / "SegmentationClass/2007_000033.png", halves(255, 255)), "shows none of the classes 0..20"),
    (lambda r: picture(r / "SegmentationClass/2007_000033.png", halves(0, 1)), "mode RGB"),
]
STREETS_BROKEN: list[tuple[Break, str]] = [
    (lambda r: shutil.rmtree(r / "leftImg8bit/val"), "leftImg8bit/val: has no images; is"),
    (lambda r: shutil.rmtree(r / "gtFine/val"), "lindau_000000_000019_gtFine_labelIds.png: not found"),
    (
        lambda r: write(r / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png", halves(0, 19)),
        "has the index 19, but the classes end at 18",
    ),
    (
        lambda r: write(r / "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png", halves(7, 34)),
        "has the index 34, but label ids end at 33",
    ),
    (
        lambda r: write(r / "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png", halves(7, 8)[:20]),
        "64x20, but its image is 64x48",
    ),
]


@pytest.mark.parametrize("number", range(len(VOC_BROKEN)))
def test_what_is_wrong_with_pascal_voc_is_named(voc_root: Path, number: int) -> None:
    damage, expected = VOC_BROKEN[number]
    damage(voc_root)
    with pytest.raises(UserError) as caught:
        voc(voc_root).read()
    assert expected in str(caught.value)
    assert str(voc_root) in str(caught.value).split("\n")[0]


@pytest.mark.parametrize("number", range(len(STREETS_BROKEN)))
def test_what_is_wrong_with_cityscapes_is_named(streets: Path, number: int) -> None:
    damage, expected = STREETS_BROKEN[number]
    damage(streets)
    with pytest.raises(UserError) as caught:
        cityscapes(streets).read()
    assert expected in str(caught.value)
    assert str(streets) in str(caught.value).split("\n")[0]


def test_a_missing_augmented_list_says_where_it_is_not(voc_root: Path) -> None:
    (voc_root / "ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(UserError, match="The list trainaug and SegmentationClassAug are not part of the release"):
        voc(voc_root, train="trainaug").read()


def test_other_files_beside_the_images_of_cityscapes_are_left_out(streets: Path) -> None:
    picture(streets / "leftImg8bit/val/lindau/preview.png", halves(0, 1))
    rows = cityscapes(streets).read().rows
    assert len(rows["images"]) == 3
    assert "1 file left out: not named like <name>_leftImg8bit.png" in rows["warnings"][0]["warning"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pascal-voc", "cityscapes"])
def test_a_probe_on_the_new_sets(project: Project, kind: str) -> None:
    """From images to metrics. Each class of an image has one colour, so that a probe can learn it."""
    root = project.folder / "images"
    if kind == "pascal-voc":
        make_voc(root)
        for name in LISTS["val"]:  # the classes of the training images
            picture(root / f"JPEGImages/{name}.jpg", halves(0, 12))
            write(root / f"SegmentationClass/{name}.png", halves(0, 12))
    else:
        make_cityscapes(root)
    document = project.params
    document["models"]["dino"] = {"type": "vit", "source": "tiny-0"}
    document["datasets"]["images"] = {"type": kind, "root": "images"}
    document["features"]["images"] = {"dataset": "images", "model": "dino", "img_size": 224, "blocks": [2]}
    predict = {"block": 2, "descriptors": ["original"], "epochs": 200, "batch": 64, "rate": 0.01}
    document["tasks"]["images"] = {
        "type": "segmentation",
        "dataset": "images",
        "features": "images",
        "predict": predict,
        "score": {},
    }
    (project.folder / "params.yaml").write_text(yaml.safe_dump(document))
    project.stages("entries")
    project.stages(*(f"{stage}@images" for stage in ("catalog", "text", "features", "predict", "score", "draw")))
    metrics = json.loads((project.folder / "results/images/metrics.json").read_text())["original"]
    assert metrics["mIoU"] > 60
    assert (project.folder / "results/images/visualizations/classes.png").is_file()
