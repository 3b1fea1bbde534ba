"""The index against exact search, and search and match as commands."""

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pipeline.datasets import folder
from pipeline.descriptors import unit
from pipeline.errors import UserError
from pipeline.index import Settings, build, factory_string
from pipeline.search import FeatureIndex
from pipeline.store import Features, FeatureStore, Item
from pipeline.writer import StoreWriter

from pipeline import index
from tests.conftest import Project

CHANNELS = 24


def make_store(path: Path, count: int = 40, seed: int = 0) -> FeatureStore:
    """Images of different grids whose tokens come from a few clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, CHANNELS))
    items = [Item(f"kind{i % 3}/image {i}", f"{seed} {i}", (5 + i % 3, 6)) for i in range(count)]
    writer = StoreWriter(path, items, [28], {"seed": seed})
    for i, item in enumerate(items):
        tokens = centres[rng.integers(0, 12, item.tokens)] + 0.4 * rng.standard_normal((item.tokens, CHANNELS))
        writer.write(i, {28: Features(tokens, rng.standard_normal((3, CHANNELS)))})
    return FeatureStore(writer.finish())


def make(path: Path, kind: str, store: FeatureStore) -> tuple[FeatureIndex, dict[str, float]]:
    figures = build(store, dict.fromkeys(store.ids, (96, 100)), Settings(kind, 28, "adaln", ()), path)
    return FeatureIndex(path, store), figures


def every_descriptor(store: FeatureStore) -> NDArray[np.float32]:
    return np.concatenate([unit(store.descriptors(28, item, "adaln")) for item in store.ids])


@pytest.mark.parametrize("kind", ["auto", "flat", "ivfsq", "ivfpq", "hnsw", "PCA16,IVF8,Flat"])
def test_every_kind_finds_what_exact_search_finds(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "store")
    found, figures = make(tmp_path / "index", kind, store)
    every = every_descriptor(store)
    starts = np.cumsum([0, *store.grids.prod(1)])
    assert figures["tokens"] == len(found) == len(every)
    hits = []
    for row in range(0, len(every), 37):
        exact = np.argsort(-(every @ every[row]), kind="stable")[:5]
        places = found.search(every[row], 5)
        rows = [starts[store.index(place.image)] + place.token for place in places]
        for place, where in zip(places, rows, strict=True):
            assert place.similarity == pytest.approx(every[where] @ every[row], abs=1e-5)
        assert [p.similarity for p in places] == sorted((p.similarity for p in places), reverse=True)
        hits.append(len({*rows} & {*exact}) / 5)
    assert np.mean(hits) >= (1 if kind in ("auto", "flat") else 0.6)
    if kind != "hnsw":
        assert sorted(found.nearest(every[0], len(every))) == list(range(len(every)))
    assert all(figures[f"recall@{k}"] == 1 for k in (1, 10, 100) if kind == "flat")


def test_recall_is_what_it_says(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    found, figures = make(tmp_path / "index", "ivfpq", store)
    every = every_descriptor(store)
    rng = np.random.default_rng([0, 1])
    own = np.sort(rng.choice(len(every), 100, replace=False))
    similarity = every[own] @ every.T
    similarity[np.arange(100), own] = -2
    hits = []
    for query, row in zip(own, similarity, strict=True):
        near = found.nearest(every[query], 11)
        hits.append(len({*near[near != query][:10]} & {*np.argsort(-row, kind="stable")[:10]}) / 10)
    assert figures["recall@10"] == pytest.approx(np.mean(hits), abs=1e-3)
    assert figures["recall@10"] < 1


def test_each_image_once(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    found, _ = make(tmp_path / "index", "flat", store)
    query = every_descriptor(store)[50]
    places = found.search(query, len(store), per_image=True)
    assert sorted(place.image for place in places) == sorted(store.ids)
    best = {item: float((found.descriptors(item) @ query).max()) for item in store.ids}
    assert [p.similarity for p in places] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)


def test_images_by_their_mean(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    found, _ = make(tmp_path / "index", "ivfsq", store)
    means = unit(np.stack([found.descriptors(item).mean(0) for item in store.ids]))
    wanted = [store.ids[i] for i in np.argsort(-(means @ means[3]))[:4]]
    assert [name for name, _ in found.search_images(means[3], 4)] == wanted
    assert found.search_images(means[3], 1)[0][1] == pytest.approx(1, abs=1e-5)


def test_rows_say_where(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", 3)
    found, _ = make(tmp_path / "index", "flat", store)
    rows = pq.read_table(tmp_path / "index/rows.parquet").to_pylist()
    assert len(rows) == len(found)
    place = found.search(found.descriptors(store.ids[1])[7], 1)[0]  # of a grid 6 down and 6 across
    assert (place.image, place.token) == (store.ids[1], 7)
    assert place.box == pytest.approx((16, 100 / 6, 32, 200 / 6), abs=1e-3)
    assert place.point == pytest.approx((24, 25), abs=1e-3)


def test_an_index_of_other_features_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "index", "flat", make_store(tmp_path / "store"))
    with pytest.raises(UserError, match="run `dvc repro`"):
        FeatureIndex(tmp_path / "index", make_store(tmp_path / "other", seed=1))


@pytest.mark.parametrize("damage", ["index.json", "tokens.faiss", "rows.parquet"])
def test_a_damaged_index_is_one_line(tmp_path: Path, damage: str) -> None:
    store = make_store(tmp_path / "store", 3)
    make(tmp_path / "index", "flat", store)
    (tmp_path / "index" / damage).write_bytes(b"not this")
    with pytest.raises(UserError, match="not a readable index") as caught:
        FeatureIndex(tmp_path / "index", store).search(np.ones(CHANNELS, np.float32), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["nonsense", "PCA99,Flat", "IVF999999,Flat"])
def test_a_wrong_kind_is_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"index\.kind"):
        make(tmp_path / "index", kind, make_store(tmp_path / "store", 3))


def test_memory_is_bounded_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "AXES_SAMPLE", 64)
    monkeypatch.setattr(index, "CELL_SAMPLE", 2)
    seen: list[int] = []
    train = faiss.IndexIVFScalarQuantizer.train

    def watched(self: Any, x: NDArray[np.float32]) -> None:
        seen.append(len(x))
        train(self, x)

    monkeypatch.setattr(faiss.IndexIVFScalarQuantizer, "train", watched)
    make(tmp_path / "index", "PCA8,IVF16,SQ8", make_store(tmp_path / "store"))
    assert 64 <= seen[0] <= 64 + 40  # a token an image more, at most


def test_the_kind_follows_the_size() -> None:
    assert factory_string("auto", 50_000, 3072) == "Flat"
    assert factory_string("auto", 1_000_000, 3072) == "PCA192,IVF1024,SQ8"
    assert factory_string("OPQ8,PQ8", 10, 3072) == "OPQ8,PQ8"


def write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 30), (number * 20, 0, 0)).save(root / name)


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["a b.png", "cats/ü.jpg", "cats/deep/2.webp", ".hidden/x.png", "cats/.y.png"])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "list.csv").write_text("path,prompt\ncats/ü.jpg,a cat\n", encoding="utf-8")
    tables = folder.read(tmp_path, "a {category}", "list.csv")
    found = {row["id"]: (row["category"], row["prompt"]) for row in tables["images"]}
    assert found == {
        "a b.png": ("image", "a image"),
        "cats/deep/2.webp": ("deep", "a deep"),
        "cats/ü.jpg": ("cats", "a cat"),
    }
    assert [row["prompt"] for row in tables["prompts"]] == ["a cat", "a deep", "a image"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,prompt\nnowhere.png,x\n", "nowhere.png: no such image"),
        ("name,text\na.png,x\n", "line 2: needs the columns path and prompt"),
        ("path,prompt\na.png,x\na.png,y\n", "line 3: a.png stands twice"),
        ("path,prompt\na.png\n", "line 2: needs"),
        ('path,prompt\na.png,"open\n', "not a readable CSV"),
        (None, "list.csv: not found"),
    ],
)
def test_a_wrong_list_of_prompts(tmp_path: Path, content: str | None, expected: str) -> None:
    write_images(tmp_path, ["a.png"])
    if content is not None:
        (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=expected):
        folder.read(tmp_path, "x", "list.csv")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["in/a.png", "out/b.png"])
    (tmp_path / "in/link.png").symlink_to(tmp_path / "out/b.png")
    with pytest.raises(UserError, match="leads out of the data set"):
        folder.read(tmp_path / "in", "x", None)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        folder.read(tmp_path, "x", None)
    with pytest.raises(UserError, match="not a folder"):
        folder.read(tmp_path / "nowhere", "x", None)


def rows_of(project: Project, *command: str, without: tuple[str, ...] = ("torch", "diffusers")) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(project.check("ditf", *command, "--json", without=without))
    return found


def test_search_a_point(project: Project) -> None:
    rows = rows_of(project, "search", "cat/cat_00", "--at", "150,100", "--per-image", "--k", "3")
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows[0]["image"] == "cat/cat_00"
    assert np.abs(np.subtract(rows[0]["point"], (150, 100))).max() <= 32
    with Image.open(project.folder / "results/search/cat-cat_00_150-100.png") as sheet:
        assert sheet.width > 600


def test_search_a_region_and_a_whole_image(project: Project, tmp_path: Path) -> None:
    picture = tmp_path / "new/sheet.png"
    rows = rows_of(project, "search", "cat/cat_00", "--box", "140,90,141,91", "--out", str(picture))
    assert len(rows) == 10
    assert picture.is_file()
    rows = rows_of(project, "search", "cat/cat_00", "--k", "4")
    assert rows[0]["image"] == "cat/cat_00"
    assert rows[0]["similarity"] == pytest.approx(1, abs=1e-4)


def test_search_with_any_file(project: Project, tmp_path: Path) -> None:
    photo = project.folder / "data/sample/photos/animal/cat.jpg"
    copy = tmp_path / "a copy.jpg"
    copy.write_bytes(photo.read_bytes())
    flags = ["--at", "150,100", "--dataset", "folder", "--k", "2"]
    known = rows_of(project, "search", str(copy), *flags)  # its bytes are known: no model
    assert known == rows_of(project, "search", "animal/cat.jpg", *flags)
    with Image.open(photo) as image:
        image.crop((0, 0, 200, 150)).save(tmp_path / "part.png")
    command = ("search", str(tmp_path / "part.png"), *flags)
    first = rows_of(project, *command, without=())
    assert [row["rank"] for row in first] == [1, 2]
    assert rows_of(project, *command) == first  # kept: no model


def test_match(project: Project) -> None:
    rows = rows_of(project, "match", "cat/cat_00", "cat/cat_00", "--at", "150,100", "--at", "90,60")
    assert [row["point"] for row in rows] == [[150, 100], [90, 60]]
    for row in rows:
        assert row["match"] == row["point"]
        assert row["similarity"] == pytest.approx(1, abs=1e-4)
    assert (project.folder / "results/match/cat-cat_00_cat-cat_00.png").is_file()
    assert "similarity" in project.check("ditf", "match", "cat/cat_00", "cat/cat_01", "--at", "1,1")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("search nowhere --at 1,1", "neither a file nor an image"),
        ("search cat/cat_00 --at 999,1", "outside cat/cat_00, which is 320x213"),
        ("search cat/cat_00 --at 1", "wanted 2 whole numbers"),
        ("search cat/cat_00 --at a,b", "wanted 2 whole numbers"),
        ("search cat/cat_00 --box 9,9,9,20", "not a box inside"),
        ("search cat/cat_00 --at 1,1 --box 1,1,9,9", "give one of them"),
        ("search cat/cat_00 --k 0", "k is 0"),
        ("search cat/cat_00 --at 1,1 --k 9999999", "k is 9999999"),
        ("search cat/cat_00 --at 1,1 --k 49 --per-image", "48 images"),
        ("search cat/cat_00 --dataset nope", "'nope' is no data set"),
        ("search params.yaml --dataset spair", "not a readable image"),
        ("search params.yaml", "--dataset"),
        ("match cat/cat_00 nowhere --at 1,1", "neither a file nor an image"),
        ("match cat/cat_00 cat/cat_01 --at -1,1", "outside"),
    ],
)
def test_wrong_searches_end_with_one_line(project: Project, command: str, expected: str) -> None:
    done = project.run("ditf", *command.split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert expected in done.stderr


def test_images_added_later_are_the_only_ones_extracted(project: Project) -> None:
    photos = project.folder / "photos"
    write_images(photos, ["a.png", "b/c.png"])
    project.set("root: data/sample/photos", "root: photos")
    project.check("dvc", "repro", "index@folder")
    write_images(photos, ["a.png", "b/c.png", "b/d.png"])
    shown = project.run("dvc", "repro", "index@folder")
    assert shown.returncode == 0, shown.stderr
    assert "2/3" in shown.stderr + shown.stdout and "0/3" not in shown.stderr + shown.stdout
    assert rows_of(project, "search", "b/d.png", "--k", "3")[0]["image"] == "b/d.png"
    project.check("git", "checkout", "params.yaml")
    project.check("dvc", "repro")


def test_only_a_change_of_features_or_its_own_parameters_rebuilds_the_index(project: Project) -> None:
    project.set("kind: auto", "kind: PCA32,IVF8,SQ8")
    ran = project.check("dvc", "repro", without=("torch", "diffusers"))
    assert ran.count("Running stage 'index@") == 3
    assert ran.count("Running stage") == 3
    assert json.loads((project.folder / "results/spair/index.json").read_text())["recall@10"] > 0.3
    project.set("topk: 5", "topk: 4")
    assert "index@" not in project.check("dvc", "repro", "jf")
    project.check("git", "checkout", "params.yaml")
    project.check("dvc", "repro", without=("torch", "diffusers"))
