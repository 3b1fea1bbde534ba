"""`ditf verify` and `ditf repair`: damage is found and repaired, wherever in a store it is."""

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from ditf.features.store import FeatureStore
from tests.conftest import BLOCK, Project, contents
from tests.test_project import change_weights

FEATURES, GROUP = "cache/features/photos-flux", f"block{BLOCK}"
TOKENS = f"{FEATURES}/{GROUP}/tokens/c.2.0.0"
REPAIR = ("ditf", "repair", "--features", "photos-flux")
VERIFY = ("ditf", "verify", "--features", "photos-flux")


def damage(path: Path, how: str = "flipped", seed: int = 0) -> None:
    """Damage a file in place, as a failing disk would: what is linked to it is damaged, too."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    position = random.Random(seed).randrange(len(data))
    if how == "removed":
        path.unlink()
        return
    if how == "flipped":
        data[position] ^= 4
    with path.open("r+b") as file:
        file.write(data)
        file.truncate({"flipped": len(data), "truncated": len(data) // 2, "emptied": 0}[how])


def objects(project: Project) -> dict[str, str]:
    """The objects of DVC's cache, each with the MD5 of its content."""
    folder = project.folder / ".dvc/cache/files/md5"
    return {
        path.parent.name + path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.glob("??/*")
        if not path.name.endswith(".dir")
    }


def check_whole(project: Project, whole: dict[str, bytes]) -> None:
    """The store is as it was, and DVC's cache, too."""
    assert contents(project.folder / FEATURES) == whole
    assert f"{FEATURES}: intact" in project.check(*VERIFY)
    assert all(name == md5 for name, md5 in objects(project).items())


def test_damaged_tokens_are_found_and_computed_again(project: Project) -> None:
    whole = contents(project.folder / FEATURES)
    for number, how in enumerate(("flipped", "truncated", "emptied", "removed")):
        damage(project.folder / FEATURES / f"{GROUP}/tokens/c.{number}.0.0", how)
    errors = project.fail(*VERIFY)
    assert errors.count("\n") == 4
    assert errors.count(f"is damaged: {GROUP}/tokens. Run `ditf repair`") == 4
    project.check(*REPAIR)
    check_whole(project, whole)


@pytest.mark.parametrize(
    "names",
    [("ids/c.0", "grid/c.0.0", f"{GROUP}/zarr.json"), ("keys/c.0", f"{GROUP}/tokens/zarr.json"), ("zarr.json",)],
)
def test_damaged_metadata_and_tables_are_written_again(project: Project, names: tuple[str, ...]) -> None:
    whole = contents(project.folder / FEATURES)
    for name in names:
        damage(project.folder / FEATURES / name, "removed" if name == "keys/c.0" else "flipped")
    assert "not a feature store, or a damaged one" in project.fail(*VERIFY)
    assert f"{len(names)} files of metadata written again" in project.check(*REPAIR)
    check_whole(project, whole)


def test_damage_in_many_places_is_repaired_at_once(project: Project) -> None:
    whole = contents(project.folder / FEATURES)
    for number, name in enumerate(
        ("zarr.json", f"{GROUP}/modulation/c.1.0.0.0", f"{GROUP}/statistics/c.0.0", f"{GROUP}/tokens/c.0.0.0")
    ):
        damage(project.folder / FEATURES / name, seed=number)
    project.check(*REPAIR)
    check_whole(project, whole)


def test_links_to_a_damaged_file_are_removed_everywhere(project: Project) -> None:
    """Equal files are one object in DVC's cache, and share one inode with every store that holds them."""
    other = project.folder / f"cache/features/spair-flux/{GROUP}/statistics/shared"
    other.hardlink_to(project.folder / TOKENS)
    before = (project.folder / TOKENS).read_bytes()
    damage(project.folder / TOKENS)
    assert "cache/features/spair-flux: " in project.check(*REPAIR)  # it lost a file, so it is checked, too
    assert not other.exists()
    assert (project.folder / TOKENS).read_bytes() == before


def test_damage_is_not_repaired_with_another_model(project: Project, tiny_flux: Path) -> None:
    damage(project.folder / TOKENS)
    before = objects(project)
    shutil.copytree(tiny_flux, project.folder / "weights")
    change_weights(project.folder / "weights")
    project.set("models.miniature.source", "weights")
    assert "is not what was pinned" in project.fail(*REPAIR)
    assert objects(project) == before
    # With the model set back, repair succeeds.
    project.check("git", "checkout", "params.yaml")
    project.check(*REPAIR)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("features.photos-flux.guidance", 3.0, "guidance 3.5, but params.yaml now has 3.0"),
        ("features.photos-flux.seed", 1, "seed 0, but params.yaml now has 1"),
    ],
)
def test_damage_is_not_repaired_with_other_parameters(project: Project, path: str, value: float, expected: str) -> None:
    damage(project.folder / TOKENS)
    project.set(path, value)
    assert expected in project.fail(*REPAIR)
    damage(project.folder / FEATURES / "keys/c.0", "truncated")
    before = contents(project.folder / FEATURES)
    errors = project.fail(*REPAIR)
    assert errors.count("\n") == 1
    assert "damaged, and made of other images or with other parameters" in errors
    assert contents(project.folder / FEATURES) == before


def test_damage_is_not_repaired_from_a_replaced_image(project: Project) -> None:
    photo = next((project.folder / "data/sample/photos").rglob("*.jpg"))
    damage(project.folder / TOKENS)
    from PIL import Image

    for path in (project.folder / "data/sample/photos").rglob("*.jpg"):
        Image.new("RGB", Image.open(path).size, "red").save(path)
    assert photo.is_file()
    assert "changed since the catalog was made" in project.fail(*REPAIR)


def test_a_damaged_index_is_found(project: Project) -> None:
    damage(project.folder / "results/photos-search/predictions/tokens.faiss")
    assert "tokens.faiss disagrees with its checksum" in project.fail(*VERIFY)
    assert "not a readable index" in project.fail("ditf", "search", "animal/cat.jpg", "--at", "9,9")


def test_damage_in_staging_stops_nothing(project: Project) -> None:
    staged = next((project.folder / ".dvc/cache/ditf/features/photos-flux").glob("*/store.zarr"))
    for name in ("zarr.json", f"{GROUP}/tokens/c.1.0.0"):
        (staged / name).unlink()
        (staged / name).write_bytes(b"damaged")
    shutil.rmtree(project.folder / FEATURES)
    whole = FeatureStore(project.folder / "cache/features/spair-flux").ids
    assert whole
    project.check("python", "-m", "stages.features", "photos-flux")
    project.check(*VERIFY)
