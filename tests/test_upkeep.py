"""`ditf verify`, `ditf repair` and `ditf plan`: what is damaged is found and mended, wherever in a store it lies."""

import random
import shutil
from pathlib import Path

import pytest
from pipeline.errors import UserError
from pipeline.store import FeatureStore

from tests.conftest import FEATURES, Project, contents


def shards(lab: Project) -> list[Path]:
    return sorted(path for path in (lab.folder / FEATURES).rglob("*") if path.is_file() and "/c/" in str(path))


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_bit_is_found_and_repaired(lab: Project, seed: int) -> None:
    whole, rng = contents(lab.folder / FEATURES), random.Random(seed)
    path = rng.choice([p for p in shards(lab) if "block" in str(p)])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    done = lab.run("ditf", "verify", "--dataset", "folder")
    assert done.returncode == 2
    assert "is damaged: block28/" in done.stderr
    lab.check("ditf", "repair", "--dataset", "folder")
    assert contents(lab.folder / FEATURES) == whole
    assert "6 of 6 items are whole" in lab.check("ditf", "verify", "--dataset", "folder")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed"])
def test_a_broken_file_is_found_and_repaired(lab: Project, damage: str) -> None:
    whole = contents(lab.folder / FEATURES)
    path = lab.folder / FEATURES / "block28/tokens/c/0/0/0"
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2 if damage == "truncated" else 0])
    assert lab.run("ditf", "verify", "--dataset", "folder").returncode == 2
    lab.check("ditf", "repair", "--dataset", "folder")
    assert contents(lab.folder / FEATURES) == whole


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("ids/c/0", "flipped"),
        ("keys/c/0", "flipped"),
        ("keys/c/0", "removed"),
        ("grid/c/0/0", "flipped"),
        ("zarr.json", "flipped"),
        ("zarr.json", "removed"),
        ("zarr.json", "edited"),
        ("block28/tokens/zarr.json", "flipped"),
    ],
)
def test_damage_besides_the_shards_is_found_and_repaired(lab: Project, name: str, damage: str) -> None:
    whole, path = contents(lab.folder / FEATURES), lab.folder / FEATURES / name
    linked = lab.folder / "cache/staging/linked"
    linked.parent.mkdir(exist_ok=True)
    linked.hardlink_to(path)
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "edited":
        path.write_bytes(data.replace(b'"seed": 0', b'"seed": 1'))
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    with pytest.raises(UserError, match="not a feature store, or a damaged one"):
        FeatureStore(lab.folder / FEATURES)
    done = lab.run("ditf", "verify", "--dataset", "folder")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "files of metadata written" in lab.check("ditf", "repair", "--dataset", "folder")
    assert contents(lab.folder / FEATURES) == whole
    assert linked.read_bytes() == whole[name]


def test_tables_are_not_repaired_from_another_catalog(lab: Project) -> None:
    path = lab.folder / FEATURES / "keys/c/0"
    path.write_bytes(path.read_bytes()[:-1])
    before = contents(lab.folder / FEATURES)
    lab.set("guidance: 3.5", "guidance: 3.0")
    done = lab.run("ditf", "repair", "--dataset", "folder")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "made of other images, with other parameters" in done.stderr
    assert contents(lab.folder / FEATURES) == before


def test_a_store_of_other_parameters_is_not_repaired(lab: Project) -> None:
    path = lab.folder / FEATURES / "block28/tokens/c/0/0/0"
    path.write_bytes(path.read_bytes()[:-40])
    lab.set("guidance: 3.5", "guidance: 3.0")
    done = lab.run("ditf", "repair", "--dataset", "folder")
    assert done.returncode == 2
    assert "made with guidance 3.5, but now it is 3.0" in done.stderr


def test_plan_counts_what_is_there(lab: Project) -> None:
    store = FeatureStore(lab.folder / FEATURES)
    shown = lab.check("ditf", "plan")
    assert f"{int(store.grids.prod(1).sum()):,}" in shown
    many = lab.check("ditf", "plan", "--images", "1000", "--size", "320,240")
    assert "1,000" in many
    for wrong in (["--images", "5"], ["--images", "5", "--size", "5"], ["--images", "5", "--size", "0,5"]):
        assert lab.run("ditf", "plan", *wrong).returncode == 2


def test_plan_before_anything_is_run(lab: Project) -> None:
    shutil.rmtree(lab.folder / "catalogs/folder")
    shutil.rmtree(lab.folder / "cache/features")
    assert "images" in lab.check("ditf", "plan")
    assert not (lab.folder / "catalogs/folder").exists()
