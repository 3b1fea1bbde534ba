"""Options that fit a model into memory: what each leaves as it is, and how near the others come."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import LatentEncoder
from ditf.backbones.source import LoadingSettings, Model, pin
from ditf.errors import UserError
from ditf.files import Hashes
from tests.test_backbones import FAMILIES, MODULATED, PIXELS, PROMPT, encoded_prompt, features, settings_of, tiny


def load(family: str, dtype: torch.dtype = torch.float32, device: str = "cpu", **loading: Any) -> LoadedDiffusion:
    """A tiny model, loaded in some way."""
    return settings_of(family).load(replace(tiny(family), loading=LoadingSettings(**loading)), dtype, device)


def passed(part: LoadedDiffusion, family: str) -> dict[str, Tensor]:
    """Features and modulation of an image, by block, on the CPU."""
    encoded, _, found = features(part, encoded_prompt(family))
    result = {f"features {block}": states.cpu() for block, states in found.items()}
    if family in MODULATED:
        with torch.inference_mode():
            more = part.modulation(encoded, encoded_prompt(family), "both")
        result |= {f"modulation {block}": values.cpu() for block, values in more.items()}
    return result


@cache
def expected_of(family: str) -> dict[str, Tensor]:
    """What a tiny model gives that is loaded in no special way."""
    return passed(load(family), family)


def text_of(family: str, device: str = "cpu", **loading: Any) -> dict[str, Tensor]:
    """An encoded prompt, by encoders loaded in some way."""
    model = replace(tiny(family), loading=LoadingSettings(**loading))
    return next(iter(settings_of(family).encode_prompts(model, [PROMPT], torch.float32, device)))


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(one.float(), other.float(), dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_blocks_give_the_same_bytes(family: str) -> None:
    text = text_of(family, offload="blocks")
    assert all(torch.equal(text[name], values) for name, values in encoded_prompt(family).items())
    offloaded = load(family, offload="blocks")
    for _ in range(2):  # the second pass finds the blocks put away
        found = passed(offloaded, family)
        assert all(torch.equal(found[name], values) for name, values in expected_of(family).items())


@pytest.mark.usefixtures("quantizers")
@pytest.mark.parametrize(
    ("family", "how", "nearest"),
    [*((family, "int8", 0.999) for family in FAMILIES), *((family, "nf4", 0.97) for family in ("flux", "unet"))],
)
def test_quantized_weights_come_near(family: str, how: str, nearest: float) -> None:
    expected, found = expected_of(family), passed(load(family, quantize=how), family)
    for name, values in expected.items():
        if name.startswith("modulation"):
            assert torch.equal(found[name], values)
        else:
            assert cosines(found[name], values).mean() > nearest
    assert any(not torch.equal(found[name], values) for name, values in expected.items())


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
    exact, small = load("flux", dtype), load("flux", dtype, gguf=str(file))
    found = passed(small, "flux")
    for name, values in passed(exact, "flux").items():
        assert cosines(found[name], values).min() > 0.99
    assert {name for name, _ in small.model.named_parameters()} == {name for name, _ in exact.model.named_parameters()}


def test_a_gguf_file_is_part_of_what_made_the_features(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    write_gguf(tiny("flux").component("transformer"), file)
    plain = pin("flux", "tiny-0", "main", Hashes(None))
    one = pin("flux", "tiny-0", "main", Hashes(None), LoadingSettings(gguf=str(file)))
    assert one.extraction_config != plain.extraction_config
    (tmp_path / "model.json").write_text(json.dumps(one.record))
    assert Model.load(tmp_path / "model.json").extraction_config == one.extraction_config
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="its files changed since it was pinned"):
        one.check(Hashes(None))
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot be read as the GGUF file") as caught:
        load("flux", gguf=str(file))
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="is not a file"):
        pin("flux", "tiny-0", "main", Hashes(None), LoadingSettings(gguf=str(file)))


@pytest.mark.parametrize(
    "loading",
    [LoadingSettings(quantize="int8"), LoadingSettings(quantize="nf4"), LoadingSettings(tiling=True)],
    ids=str,
)
def test_what_changes_features_is_part_of_what_made_them(loading: LoadingSettings, tmp_path: Path) -> None:
    plain, changed = tiny("flux"), replace(tiny("flux"), loading=loading)
    assert plain.extraction_config != changed.extraction_config
    (tmp_path / "model.json").write_text(json.dumps(changed.record))
    assert Model.load(tmp_path / "model.json").extraction_config == changed.extraction_config
    assert (
        replace(plain, loading=LoadingSettings(offload="blocks", compile=True)).extraction_config
        == plain.extraction_config
    )


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"quantize: int8: needs torchao\. Run `pip install torchao`"):
        load("flux", quantize="int8")


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


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="on a CPU torch compiles by a C++ compiler")
def test_compiled_blocks_give_the_same_features() -> None:
    """Of one family, as compiling takes long."""
    found = passed(load("flux", compile=True), "flux")
    for name, values in expected_of("flux").items():
        np.testing.assert_allclose(found[name], values, atol=1e-3)


@pytest.mark.parametrize("family", ["sd3", "unet"])
def test_blocks_as_a_compiler_gets_them_give_the_same_bytes(family: str) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def trace(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with torch.compiler.set_stance("default", force_backend=trace):
        found = passed(load(family, compile=True), family)
    assert graphs
    assert all(torch.equal(found[name], values) for name, values in expected_of(family).items())


def test_a_compiler_that_fails_is_one_line() -> None:
    def fail(_graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("no compiler of C++\n\nmore of it")

    part = load("flux", compile=True)
    with (
        torch.compiler.set_stance("default", force_backend=fail),
        pytest.raises(UserError, match="compile: torch's compiler fails") as caught,
    ):
        passed(part, "flux")
    assert "no compiler of C++" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_compiled(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: set[nn.Module] = set()
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.add(self))
    part = load(family, compile=True)
    blocks = [
        block for block in part.layout.blocks(part.model) if any("att" in name for name, _ in block.named_modules())
    ]
    assert blocks
    assert all(compiled & set(block.modules()) for block in blocks)
