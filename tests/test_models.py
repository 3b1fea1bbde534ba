"""Where a model comes from: a local folder, or a Hub id (here: from the Hub's local cache, without a network)."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from pipeline.errors import UserError
from pipeline.model import Model, pin

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_pinned_by_its_content(tiny_flux: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_flux, copy)
    one, other = pin(str(tiny_flux), "main"), pin(str(copy), "main")
    assert one.digest == other.digest
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert pin(str(copy), "main").digest != one.digest
    other.save(tmp_path / "model.json")
    assert Model.load(tmp_path / "model.json", str(copy)) == other
    assert other.component("vae") == copy / "vae"


def test_an_incomplete_folder_is_told(tiny_flux: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_flux, copy)
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(UserError, match="text_encoder_2: not found"):
        pin(str(copy), "main")


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "./here", "a/b/c", "~/model"])
def test_what_is_neither_folder_nor_hub_id_is_told(source: str) -> None:
    with pytest.raises(UserError, match="is no folder, nor a Hub id"):
        pin(source, "main")


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
    model = pin("someone/flux", "main")
    assert model == Model("someone/flux", f"someone/flux@{COMMIT}")
    assert (model.component("transformer") / "config.json").is_file()


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_is_told() -> None:
    with pytest.raises(UserError, match="cannot be fetched from the Hub"):
        pin("someone/else", "main")


def test_a_damaged_pin_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match="not a pinned model"):
        Model.load(tmp_path / "model.json", "somewhere")
