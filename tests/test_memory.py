"""Options that fit a model into memory: what each leaves as it is, and how near the others come."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditf.backbones.parts.diffusion import LoadedDiffusion
from ditf.backbones.parts.latents import LatentEncoder
from ditf.errors import UserError
from ditf.files import Hashes
from ditf.models import Loading, Model, pin
from tests.conftest import ROOT
from tests.test_backbones import FAMILIES, MODULATED, PIXELS, PROMPT, features, settings_of, tiny

APART = ROOT / ".venv" / "quantize"  # libraries that slow down every import of diffusers where they are installed


@pytest.fixture
def quantizers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The libraries that quantize."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(APART)])
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    yield


def load(
    family: str, loading: Loading, dtype: torch.dtype = torch.float32
) -> tuple[LoadedDiffusion, dict[str, Tensor]]:
    """A tiny model, loaded in some way, and an encoded prompt."""
    model, settings = replace(tiny(family), loading=loading), settings_of(family)
    text = next(iter(settings.encode_prompts(model, [PROMPT], dtype, "cpu")))
    return settings.load(model, dtype, "cpu"), text


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(one.float(), other.float(), dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_blocks_give_the_same_bytes(family: str) -> None:
    exact, text = load(family, Loading())
    offloaded, same_text = load(family, Loading(offload="blocks"))
    assert all(torch.equal(text[name], same_text[name]) for name in text)
    for _ in range(2):  # the second pass finds the blocks put away
        encoded, _, found = features(offloaded, text)
        assert all(torch.equal(found[block], states) for block, states in features(exact, text)[2].items())
    if family in MODULATED:
        one, other = (part.modulation(encoded, text, "both") for part in (exact, offloaded))
        assert all(torch.equal(one[block], other[block]) for block in one)


@pytest.mark.usefixtures("quantizers")
@pytest.mark.parametrize(
    ("family", "how", "nearest"),
    [*((family, "int8", 0.999) for family in FAMILIES), *((family, "nf4", 0.97) for family in ("flux", "unet"))],
)
def test_quantized_weights_come_near(family: str, how: Any, nearest: float) -> None:
    exact, text = load(family, Loading())
    small, _ = load(family, Loading(quantize=how))
    encoded, _, expected = features(exact, text)
    _, _, found = features(small, text)
    for block in expected:
        assert cosines(found[block], expected[block]).mean() > nearest
    assert any(not torch.equal(found[block], expected[block]) for block in expected)
    if family in MODULATED:  # the modulation is exact
        one, other = (part.modulation(encoded, text, "both") for part in (exact, small))
        assert all(torch.equal(one[block], other[block]) for block in one)


def write_gguf(folder: Path, file: Path) -> None:
    """A transformer's weights as a GGUF file of 8-bit blocks, as users have them."""
    import gguf
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(str(file), "flux")
    for name, weight in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        if weight.ndim == 2 and weight.shape[1] % 32 == 0 and "embed" not in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_gguf_file_stands_in_for_the_transformers_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "flux-Q8_0.gguf"
    write_gguf(tiny("flux").component("transformer"), file)
    exact, text = load("flux", Loading(), dtype)
    small, _ = load("flux", Loading(gguf=str(file)), dtype)
    encoded, _, expected = features(exact, text)
    _, _, found = features(small, text)
    for block in expected:
        assert cosines(found[block], expected[block]).min() > 0.99
    one, other = (part.modulation(encoded, text, "both") for part in (exact, small))
    for block in one:
        assert cosines(one[block], other[block]).min() > 0.99
    assert {name for name, _ in small.model.named_parameters()} == {name for name, _ in exact.model.named_parameters()}


def test_a_gguf_file_is_part_of_what_made_the_features(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    write_gguf(tiny("flux").component("transformer"), file)
    plain = pin("flux", "tiny:0", "main", Hashes(None))
    one = pin("flux", "tiny:0", "main", Hashes(None), Loading(gguf=str(file)))
    assert one.made_by != plain.made_by
    one.save(tmp_path / "model.json")
    assert Model.load(tmp_path / "model.json").made_by == one.made_by
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="its files changed since it was pinned"):
        one.check(Hashes(None))
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot be read as the GGUF file") as caught:
        load("flux", Loading(gguf=str(file)))
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="is not a file"):
        pin("flux", "tiny:0", "main", Hashes(None), Loading(gguf=str(file)))


@pytest.mark.parametrize("loading", [Loading(quantize="int8"), Loading(quantize="nf4"), Loading(tiling=True)], ids=str)
def test_what_changes_features_is_part_of_what_made_them(loading: Loading, tmp_path: Path) -> None:
    plain, changed = tiny("flux"), replace(tiny("flux"), loading=loading)
    assert plain.made_by != changed.made_by
    changed.save(tmp_path / "model.json")
    assert Model.load(tmp_path / "model.json").made_by == changed.made_by
    assert replace(plain, loading=Loading(offload="blocks", compile=True)).made_by == plain.made_by


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match="quantize: int8: needs torchao; run `pip install torchao`"):
        load("flux", Loading(quantize="int8"))


@pytest.mark.parametrize("family", ["flux", "qwen_image", "sana"])
def test_tiles_are_encoded_one_by_one(family: str) -> None:
    folder = tiny(family).component("vae")
    whole, tiled = (LatentEncoder.load(folder, torch.float32, "cpu", tiling) for tiling in (False, True))
    calls: list[tuple[int, ...]] = []
    layer = next(m for m in tiled.vae.encoder.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    layer.register_forward_pre_hook(lambda _m, args: calls.append(tuple(args[0].shape)))
    size = (320, 480) if family == "qwen_image" else (640, 960)  # of tiles half as large
    image = nn.functional.interpolate(PIXELS[None], size=size, mode="bicubic")[0].clamp(-1, 1)
    with torch.inference_mode():
        one, other = whole.encode(image), tiled.encode(image)
    assert len(calls) > 1
    assert one.mean.shape == other.mean.shape
    assert max(max(shape[-2:]) for shape in calls) < size[1]
    assert bool(other.mean.isfinite().all())


def test_compiled_blocks_give_the_same_features() -> None:
    """Of one family, as compiling takes long."""
    exact, text = load("flux", Loading())
    compiled, _ = load("flux", Loading(compile=True))
    _, _, expected = features(exact, text)
    _, _, found = features(compiled, text)
    for block in expected:
        np.testing.assert_allclose(found[block], expected[block], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_compiled(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: set[nn.Module] = set()
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.add(self))
    part, _ = load(family, Loading(compile=True))
    blocks = [
        block for block in part.layout.blocks(part.model) if any("att" in name for name, _ in block.named_modules())
    ]
    assert blocks
    assert all(compiled & set(block.modules()) for block in blocks)
