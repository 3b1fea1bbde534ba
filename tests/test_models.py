"""Where a model comes from: a local folder, the package, a seed, or a Hub id (from the Hub's local cache, offline)."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest

from ditf.backbones.source import MINIATURE_FOLDER, Model, pin
from ditf.errors import UserError
from ditf.files import Hashes
from tests.conftest import ROOT, contents

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FRESH = Hashes(None)


def flip(path: Path) -> None:
    """Change one bit of a file, in place."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_folder_is_pinned_by_its_content(tiny_flux: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_flux, copy)
    one, other = pin("flux", str(tiny_flux), "main", FRESH), pin("flux", str(copy), "main", FRESH)
    assert one.digest == other.digest == pin("flux", "tiny-0", "main", FRESH).digest
    (tmp_path / "model.json").write_text(json.dumps(other.record))
    assert Model.load(tmp_path / "model.json") == other
    assert other.component("vae") == copy / "vae"
    other.check(FRESH)
    flip(copy / "vae/diffusion_pytorch_model.safetensors")
    assert pin("flux", str(copy), "main", FRESH).digest != one.digest
    with pytest.raises(UserError, match="its files changed since it was pinned"):
        other.check(FRESH)


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path) -> None:
    path, known = tmp_path / "weights", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    first = Hashes(known).of(path)
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a careless copy would
    assert Hashes(known).of(path) != first
    path.unlink()
    path.write_bytes(b"one")
    assert Hashes(known).of(path) == first


def test_tiny_models_differ_by_their_seed() -> None:
    assert pin("flux", "tiny-0", "main", FRESH).digest != pin("flux", "tiny-1", "main", FRESH).digest
    with pytest.raises(UserError, match="the seed of a tiny model is a number"):
        pin("flux", "tiny-x", "main", FRESH)
    assert pin("flux", "tiny:0", "main", FRESH).digest == pin("flux", "tiny-0", "main", FRESH).digest


def test_the_miniature_is_pinned_by_its_content_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(MINIATURE_FOLDER, copy)
    (tmp_path / "miniature").mkdir()  # a folder of the user's with this name
    monkeypatch.chdir(tmp_path)
    model = pin("flux", "miniature", "main", FRESH)
    assert model.digest == pin("flux", str(copy), "main", FRESH).digest != pin("flux", "tiny-0", "main", FRESH).digest
    assert model.component("vae") == MINIATURE_FOLDER / "vae"
    flip(copy / "transformer/diffusion_pytorch_model.safetensors")
    assert pin("flux", str(copy), "main", FRESH).digest != model.digest


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_miniature(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        folder = "ditf/backbones/miniature/"
        packed = {name.removeprefix(folder): wheel.read(name) for name in wheel.namelist() if name.startswith(folder)}
    assert packed == contents(MINIATURE_FOLDER)


def test_an_incomplete_folder_is_reported(tiny_flux: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_flux, copy)
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(UserError, match="text_encoder_2: not found"):
        pin("flux", str(copy), "main", FRESH)


def test_weights_of_a_variant_only_are_reported(tiny_flux: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_flux, copy)
    weights = copy / "vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(UserError, match=r"vae: has only weights of the variant 'fp16' .*`variant='fp16'`") as caught:
        pin("flux", str(copy), "main", FRESH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "./here", "a/b/c", "~/model"])
def test_what_is_neither_folder_nor_hub_id_is_reported(source: str) -> None:
    with pytest.raises(UserError, match="is not a folder, a Hub id"):
        pin("flux", source, "main", FRESH)


@pytest.fixture
def hub(tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache with one repository in it, and no network."""
    home = tmp_path / "hub" / "models--someone--flux"
    shutil.copytree(tiny_flux, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True)


@pytest.mark.usefixtures("hub")
def test_a_hub_id_is_pinned_by_its_commit() -> None:
    model = pin("flux", "someone/flux", "main", FRESH)
    assert model == Model("flux", "someone/flux", "main", COMMIT)
    assert (model.component("transformer") / "config.json").is_file()
    model.check(FRESH)


@pytest.mark.usefixtures("hub")
def test_prompts_are_encoded_and_weights_loaded_from_the_hub() -> None:
    import ditf

    extractor = ditf.Extractor.from_pretrained("someone/flux", block=3, ensemble_size=1, img_size=32)
    import numpy as np

    assert extractor(np.zeros((20, 30, 3), np.uint8), "a cat").tokens.shape == (2, 64)


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_is_reported() -> None:
    with pytest.raises(UserError, match="cannot be downloaded from the Hub"):
        pin("flux", "someone/else", "main", FRESH)


def test_a_damaged_pin_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match="not a pinned model"):
        Model.load(tmp_path / "model.json")
