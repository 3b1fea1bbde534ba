"""AP-10K, PF-Pascal and PF-Willow in layouts that the tests make: what is read, what is wrong with them, and PCK."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import yaml
from PIL import Image

from ditf.data.prepare_ap10k import prepare_ap10k
from ditf.datasets.ap10k import AP10K
from ditf.datasets.base import Dataset
from ditf.datasets.pf_pascal import PFPascal
from ditf.datasets.pf_willow import PFWillow
from ditf.errors import UserError
from ditf.report.benchmark import read_benchmark
from ditf.sample.ap10k import build_ap10k
from ditf.sample.pf_pascal import build_pf_pascal
from ditf.sample.pf_willow import build_pf_willow
from tests.conftest import Project
from tests.test_homography import make as make_sequences

Break = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples, not to be changed."""
    folder = tmp_path_factory.mktemp("sets")
    build_ap10k(folder / "ap10k", 0)
    prepare_ap10k(folder / "ap10k", 42, None)
    build_pf_pascal(folder / "pf_pascal", 0)
    build_pf_willow(folder / "pf_willow", 0)
    return folder


def dataset(name: str, root: Path, **settings: Any) -> Dataset:
    kind = {"ap10k": AP10K, "pf_pascal": PFPascal, "pf_willow": PFWillow}[name]
    return kind(type=name, root=str(root), **settings)


@pytest.mark.parametrize("name", ["ap10k", "pf_pascal", "pf_willow"])
def test_keypoints_of_a_sample_show_the_same_point(made: Path, name: str) -> None:
    tables = dataset(name, made / name).read().rows
    paths = {row["id"]: made / name / row["path"] for row in tables["images"]}
    pairs = {row["pair"]: row for row in tables["pairs"]}

    def patch(image: str, x: float, y: float) -> Any:
        pixels = np.asarray(Image.open(paths[image]).convert("RGB"))
        return cv2.getRectSubPix(pixels, (9, 9), (x, y)).astype(np.float64).mean((0, 1))

    near = []
    for row in tables["keypoints"][::7]:
        pair = pairs[row["pair"]]
        source = patch(pair["source"], row["source_x"], row["source_y"])
        near.append(np.abs(source - patch(pair["target"], row["target_x"], row["target_y"])).max() < 25)
    assert np.mean(near) > 0.9


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def animal(root: Path) -> Path:
    return sorted((root / "ImageAnnotation").rglob("*.json"))[0]


def pair(root: Path) -> Path:
    return sorted((root / "PairAnnotation/test").glob("*.json"))[0]


def unseen(root: Path) -> None:
    for path in (root / "ImageAnnotation").rglob("*.json"):
        edit_json(path, keypoints=[0] * 51)


AP10K_BROKEN: list[tuple[Break, str]] = [
    (lambda r: shutil.rmtree(r / "PairAnnotation"), "no pairs. Make them with `ditf prepare ap10k"),
    (lambda r: pair(r).write_text("{"), "not valid JSON"),
    (lambda r: pair(r).write_text("{}"), "not a pair with src_json_path and trg_json_path"),
    (lambda r: edit_json(pair(r), src_json_path="data/x.json"), "is not in ImageAnnotation"),
    (lambda r: edit_json(pair(r), src_json_path="ImageAnnotation/../../x.json"), "leads out of the data set"),
    (lambda r: animal(r).unlink(), ".json: not found"),
    (lambda r: animal(r).write_text("[]"), "Make the pairs again from AP-10K"),
    (lambda r: edit_json(animal(r), keypoints=[1, 2, 2]), "keypoints: "),
    (lambda r: edit_json(animal(r), keypoints=[None] * 51), "keypoints.0: "),
    (lambda r: edit_json(animal(r), bbox=[1, 2, 0, 0]), "has no area"),
    (lambda r: edit_json(animal(r), bbox=[1, 2]), "bbox: "),
    (lambda r: edit_json(animal(r), width=7), "width, height: 7x"),
    (lambda r: edit_json(animal(r), width="wide"), "width: "),
    (lambda r: animal(r).write_text(animal(r).read_text().replace('"bbox": [', '"bbox": [NaN, ', 1)), "bbox"),
    (unseen, "no keypoint is visible in both images"),
    (lambda r: sorted((r / "JPEGImages").rglob("*.jpg"))[0].unlink(), "not found"),
    (lambda r: sorted((r / "JPEGImages").rglob("*.jpg"))[0].write_bytes(b"x"), "not a readable image"),
]


def edit_csv(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def cell(root: Path, name: str, column: int, value: str) -> None:
    """Change a cell of the first line of a list."""

    def change(lines: list[str]) -> list[str]:
        cells = lines[1].split(",")
        cells[column] = value
        return [lines[0], ",".join(cells), *lines[2:]]

    edit_csv(root / name, change)


def mat(root: Path) -> Path:
    return sorted((root / "Annotations").rglob("*.mat"))[0]


PASCAL = "test_pairs_pf_pascal.csv"
PF_PASCAL_BROKEN: list[tuple[Break, str]] = [
    (lambda r: (r / PASCAL).unlink(), "has no list test_pairs_pf_pascal.csv"),
    (lambda r: edit_csv(r / PASCAL, lambda lines: lines[:1]), "no pairs"),
    (lambda r: edit_csv(r / PASCAL, lambda lines: [lines[0].replace("XA", "XX"), *lines[1:]]), "no column XA"),
    (lambda r: cell(r, PASCAL, 2, "21"), "line 2: class: '21' is not one of 1..20"),
    (lambda r: cell(r, PASCAL, 2, "0"), "line 2: class: '0' is not one of 1..20"),
    (lambda r: cell(r, PASCAL, 3, "1;nan;3"), "line 2: XA: 'nan' is not a coordinate"),
    (lambda r: cell(r, PASCAL, 4, "1;x;3"), "line 2: YA: 'x' is not a coordinate"),
    (lambda r: cell(r, PASCAL, 5, "1;2"), "the numbers must be equal"),
    (lambda r: cell(r, PASCAL, 3, ""), "line 2: XA: '' is not a coordinate"),
    (lambda r: cell(r, PASCAL, 0, "PF-dataset-PASCAL/../../x.jpg"), "leads out of the data set"),
    (lambda r: cell(r, PASCAL, 1, ""), "line 2: names no image"),
    (lambda r: cell(r, PASCAL, 0, "PF-dataset-PASCAL/JPEGImages/no.jpg"), "not found"),
    (lambda r: mat(r).unlink(), ".mat: not found"),
    (lambda r: mat(r).write_bytes(b"no"), "bbox: cannot be read"),
    (lambda r: scipy.io.savemat(mat(r), {"kps": np.zeros(3)}), "bbox: cannot be read"),
    (lambda r: scipy.io.savemat(mat(r), {"bbox": np.array([1, 2, np.nan, 4])}), "bbox: not x1, y1, x2, y2"),
    (lambda r: scipy.io.savemat(mat(r), {"bbox": np.zeros((2, 4))}), "bbox: not x1, y1, x2, y2"),
]
WILLOW = "test_pairs.csv"


def one_point(root: Path) -> None:
    for column in range(22, 42):
        cell(root, WILLOW, column, "5")


PF_WILLOW_BROKEN: list[tuple[Break, str]] = [
    (lambda r: (r / WILLOW).unlink(), "not found; is"),
    (lambda r: (r / WILLOW).write_text(""), "no column imageA"),
    (lambda r: edit_csv(r / WILLOW, lambda lines: lines[:1]), "no pairs"),
    (
        lambda r: edit_csv(r / WILLOW, lambda lines: [lines[0].replace("YB10", "YB11"), *lines[1:]]),
        "no column YB10",
    ),
    (lambda r: cell(r, WILLOW, 0, "x.png"), "line 2: imageA: 'x.png' is not a class and a file"),
    (lambda r: cell(r, WILLOW, 1, "a/b/x.png"), "line 2: imageB: 'a/b/x.png' is not a class and a file"),
    (lambda r: cell(r, WILLOW, 1, "PF-dataset/../x.png"), "leads out of the data set"),
    (lambda r: cell(r, WILLOW, 2, "nan"), "line 2: XA: 'nan' is not a coordinate"),
    (lambda r: cell(r, WILLOW, 12, "inf"), "line 2: YA: 'inf' is not a coordinate"),
    (lambda r: cell(r, WILLOW, 22, ""), "line 2: XB: '' is not a coordinate"),
    (lambda r: cell(r, WILLOW, 0, "PF-dataset/cat(S)/no.png"), "not found"),
    (lambda r: sorted(r.rglob("*.png"))[0].write_bytes(b"x"), "not a readable image"),
    (lambda r: one_point(r), "all points of the target are equal"),
]
BROKEN = {"ap10k": AP10K_BROKEN, "pf_pascal": PF_PASCAL_BROKEN, "pf_willow": PF_WILLOW_BROKEN}


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, cases in BROKEN.items() for n in range(len(cases))], ids=str
)
def test_what_is_wrong_is_named(made: Path, tmp_path: Path, name: str, number: int) -> None:
    shutil.copytree(made / name, tmp_path / name)
    damage, expected = BROKEN[name][number]
    damage(tmp_path / name)
    with pytest.raises(UserError) as caught:
        dataset(name, tmp_path / name).read()
    first, *others = str(caught.value).split("\n")
    assert expected in str(caught.value)
    assert str(tmp_path) in first
    assert not others or "nothing was written" in others[-1]


@pytest.mark.parametrize("name", ["pf_pascal", "pf_willow"])
def test_a_point_outside_its_image_is_a_warning(made: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(made / name, tmp_path / name)
    if name == "pf_willow":
        cell(tmp_path / name, WILLOW, 2, "-7.5")
    else:
        path = tmp_path / name / PASCAL
        edit_csv(
            path,
            lambda lines: [lines[0], lines[1].replace(lines[1].split(",")[3].split(";")[0], "9999", 1), *lines[2:]],
        )
    tables = dataset(name, tmp_path / name).read().rows
    (warning,) = tables["warnings"]
    assert re.match(r"line 2: \(.*\) lies outside \S+\.(jpg|png); the nearest point is matched", warning["warning"])
    assert warning["file"].endswith(".csv")
    assert tables["keypoints"][0]["source_x"] in (0, 319, 239, 213)


def test_ap10k_pairs_are_seeded_and_independent_of_the_order_of_files(made: Path, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((42, 42, 7)):
        root = tmp_path / str(number)
        for name in ("data", "annotations"):
            shutil.copytree(made / "ap10k" / name, root / name)
        if number == 1:  # the same annotations in two files, and in another order
            path = root / "annotations/ap10k-train-split1.json"
            whole = json.loads(path.read_text())
            half = len(whole["images"]) // 2
            for split, part in (("train", slice(half, None)), ("val", slice(None, half))):
                document = {key: whole[key][part][::-1] for key in ("images", "annotations")}
                document["categories"] = whole["categories"]
                (root / f"annotations/ap10k-{split}-split1.json").write_text(json.dumps(document))
        prepare_ap10k(root, seed, None)
        found.append(sorted(str(p.relative_to(root)) for p in (root / "PairAnnotation").rglob("*.json")))
    assert found[0] == found[1]
    assert found[0] != found[2]
    with pytest.raises(UserError, match="exists already"):
        prepare_ap10k(tmp_path / "0", 42, None)


def test_ap10k_leaves_out_what_it_is_told_to(made: Path, project: Project) -> None:
    root = project.folder / "release"
    for name in ("data", "annotations"):
        shutil.copytree(made / "ap10k" / name, root / name)
    (project.folder / "crowds.txt").write_text("1\n2\n")
    shown = project.check("ditf", "prepare", "ap10k", "release", "--leave-out", "crowds.txt")
    assert "test: " in shown
    names = {path.stem for path in (root / "ImageAnnotation").rglob("*.json")}
    assert not names & {f"{1:012d}", f"{2:012d}"}
    assert "exists already" in project.fail("ditf", "prepare", "ap10k", "release")
    (root / "annotations/ap10k-train-split1.json").write_text("{")
    for name in ("ImageAnnotation", "JPEGImages", "PairAnnotation"):
        shutil.rmtree(root / name)
    assert "not valid JSON" in project.fail("ditf", "prepare", "ap10k", "release")
    assert not list(root.glob("*.partial"))


@pytest.mark.slow
def test_every_benchmark_from_images_to_a_table(project: Project) -> None:
    make_sequences(project.folder / "sequences")
    document = project.params
    document["models"]["dino"] = {"type": "vit", "source": "tiny-0"}
    reading = {"block": 2, "descriptors": ["original"]}
    alphas = {"alphas": [0.01, 0.05, 0.1, 0.15]}
    probe = reading | {"epochs": 40, "batch": 256, "rate": 0.01}
    sets: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
        "pascal": (
            {"type": "pf_pascal", "root": "data/sample/PF-dataset-PASCAL"},
            168,
            {"type": "correspondence", "predict": reading, "score": alphas},
        ),
        "hpatches": (
            {"type": "hpatches", "root": "sequences", "keypoints": None, "most": 200},
            336,
            {"type": "homography", "predict": reading, "score": {}},
        ),
        "ade": (
            {"type": "ade20k", "root": "data/sample/ADE20K", "classes": 4},
            224,
            {"type": "segmentation", "predict": probe, "score": {}},
        ),
    }
    for name, (entry, size, task) in sets.items():
        document["datasets"][name] = entry
        document["features"][name] = {"dataset": name, "model": "dino", "img_size": size, "blocks": [2]}
        document["tasks"][name] = {"dataset": name, "features": name, **task}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(document))
    project.stages("entries")
    for name in sets:
        project.stages(*(f"{stage}@{name}" for stage in ("catalog", "text", "features", "predict", "score", "draw")))
    shown = project.check("ditf", "results")
    results = project.folder / "results"
    found = {name: json.loads((results / name / "metrics.json").read_text())["original"] for name in sets}
    assert 0 < found["pascal"]["point@0.1"] <= 100
    assert "pascal: PCK by category" in shown
    assert {"image@0.1 of squashed image", "image@0.1 of annotated box"} <= set(found["pascal"])
    assert 0 <= found["hpatches"]["lmeds@1"] <= found["hpatches"]["lmeds@3"] <= found["hpatches"]["lmeds@5"] <= 100
    assert (results / "hpatches/visualizations/matches_best.png").is_file()
    assert found["ade"]["mIoU"] > 60  # by chance about 14
    assert found["ade"]["pixel accuracy"] > found["ade"]["mIoU"]
    assert (results / "ade/visualizations/classes.png").is_file()
    assert read_benchmark(results / "ade/tables").protocol == "linear-pixels-full"
    for labels in ("majority", "centre"):
        project.set("tasks.ade.predict.labels", labels)
        project.set("tasks.ade.score.resolution", 64)
        project.stages("entries", "predict@ade", "score@ade")
        metrics = json.loads((results / "ade/metrics.json").read_text())["original"]
        assert metrics["mIoU"] > 50
        assert read_benchmark(results / "ade/tables").protocol == f"linear-{labels}-64"
    assert not (results / "ade/predictions.partial").exists()
