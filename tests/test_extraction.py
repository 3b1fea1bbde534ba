"""Extraction: what determines features, what is computed how often, and what an interruption leaves."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from PIL import Image
from pipeline.backbones.flux import FluxTransformer, Text, needed_tensors, weight_patterns
from pipeline.backbones.text import TextEncoder
from pipeline.backbones.vae import LatentEncoder
from pipeline.errors import UserError
from pipeline.extraction import Extractor, Settings, Source, extract
from pipeline.store import Features, FeatureStore
from pipeline.text import encode_prompts, file_name, load_text
from pipeline.writer import StoreWriter
from safetensors.torch import load_file, save_file

SETTINGS = Settings(timestep=260, blocks=(3, 21), ensemble_size=3, guidance=3.5, rule="longer", img_size=64, seed=0)


def pictures(folder: Path, count: int) -> list[Source]:
    """Images of different sizes, each with its own prompt but for the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for i in range(count):
        path = folder / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 255, (40 + 8 * i, 70, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sources.append(Source(str(i), path, digest, 70, 40 + 8 * i, f"photo {min(i, count - 2)}"))
    return sources


def text_of(prompt: str) -> Text:
    generator = torch.Generator().manual_seed(len(prompt) + ord(prompt[-1]))
    return Text(torch.randn(32, 32, generator=generator), torch.randn(24, generator=generator))


def loader(model: Path, settings: Settings = SETTINGS, batch_size: int = 2) -> Callable[[], Extractor]:
    def load() -> Extractor:
        transformer = FluxTransformer.load(model / "transformer", settings.blocks, torch.float32, "cpu")
        return Extractor(transformer, LatentEncoder.load(model / "vae", torch.float32, "cpu"), settings, batch_size)

    return load


def run(
    folder: Path,
    sources: list[Source],
    load: Callable[[], Extractor],
    settings: Settings = SETTINGS,
    reuse: list[FeatureStore] | None = None,
) -> tuple[Path, int]:
    writer = StoreWriter(folder, [s.item(settings) for s in sources], settings.blocks, {})
    computed = extract(sources, settings, writer, load, text_of, reuse or [])
    return writer.finish(), computed


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def features_of(model: Path, source: Source, batch_size: int, settings: Settings = SETTINGS) -> dict[int, Features]:
    pixels = np.array(Image.open(source.path).resize((64, 48)))
    return loader(model, settings, batch_size)().features(pixels, text_of("x"), source.sha256)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_features_do_not_depend_on_the_batch_size(tiny_flux: Path, tmp_path: Path, batch_size: int) -> None:
    (source, _) = pictures(tmp_path, 2)
    one, other = features_of(tiny_flux, source, 3), features_of(tiny_flux, source, batch_size)
    for block in SETTINGS.blocks:
        scale = np.abs(one[block].tokens).max()
        np.testing.assert_allclose(other[block].tokens, one[block].tokens, atol=1e-6 * scale)
        np.testing.assert_allclose(other[block].modulation, one[block].modulation, atol=1e-6)


def test_several_blocks_at_once_equal_each_alone(tiny_flux: Path, tmp_path: Path) -> None:
    (source, _) = pictures(tmp_path, 2)
    both = features_of(tiny_flux, source, 2)
    for block in SETTINGS.blocks:
        alone = Settings(**{**vars(SETTINGS), "blocks": (block,)})
        found = features_of(tiny_flux, source, 2, alone)
        np.testing.assert_array_equal(found[block].tokens, both[block].tokens)
        np.testing.assert_array_equal(found[block].modulation, both[block].modulation)


def test_the_ensemble_is_the_mean_of_its_draws_and_the_seed_matters(tiny_flux: Path, tmp_path: Path) -> None:
    (source, _) = pictures(tmp_path, 2)
    mean = {n: features_of(tiny_flux, source, 1, Settings(**{**vars(SETTINGS), "ensemble_size": n})) for n in (1, 2)}
    other = features_of(tiny_flux, source, 1, Settings(**{**vars(SETTINGS), "seed": 1}))
    assert np.abs(mean[1][3].tokens - mean[2][3].tokens).max() > 0.01
    assert np.abs(other[3].tokens - features_of(tiny_flux, source, 1)[3].tokens).max() > 0.01


def test_bytes_do_not_depend_on_the_order_of_the_images(tiny_flux: Path, tmp_path: Path) -> None:
    sources = pictures(tmp_path, 3)
    one, _ = run(tmp_path / "a", sources, loader(tiny_flux))
    other, _ = run(tmp_path / "b", sources[::-1], loader(tiny_flux))
    for source in sources:
        found, wanted = (FeatureStore(path).features(21, source.id).tokens for path in (one, other))
        np.testing.assert_array_equal(found, wanted)


def test_the_vae_encodes_each_image_once(tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    original = LatentEncoder.encode

    def counted(self: LatentEncoder, pixels: torch.Tensor) -> Any:
        calls.append(tuple(pixels.shape))
        return original(self, pixels)

    monkeypatch.setattr(LatentEncoder, "encode", counted)
    run(tmp_path / "store", pictures(tmp_path, 3), loader(tiny_flux))
    assert len(calls) == 3


def test_added_images_alone_are_extracted(tiny_flux: Path, tmp_path: Path) -> None:
    sources = pictures(tmp_path, 4)
    before, computed = run(tmp_path / "a", [sources[1], sources[3]], loader(tiny_flux))
    assert computed == 2
    after, computed = run(tmp_path / "b", sources, loader(tiny_flux), reuse=[FeatureStore(before)])
    assert computed == 2
    fresh, _ = run(tmp_path / "c", sources, loader(tiny_flux))
    assert files(after) == files(fresh)


def test_a_finished_store_needs_no_model(tiny_flux: Path, tmp_path: Path) -> None:
    sources = pictures(tmp_path, 2)
    run(tmp_path / "a", sources, loader(tiny_flux))

    def never() -> Extractor:
        raise AssertionError("the model was loaded")

    assert run(tmp_path / "a", sources, never)[1] == 0


def test_a_killed_extraction_resumes_to_the_same_bytes(tiny_flux: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests import test_extraction as t
t.run(Path(sys.argv[1]), t.pictures(Path(sys.argv[2]), 6), t.loader(Path(sys.argv[3])))
"""
    root, folder = Path(__file__).parents[1], tmp_path / "killed"
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "images"), str(tiny_flux)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as process:
        while not (folder / "loose").is_dir() or len(list((folder / "loose").glob("[0-9]*"))) < 2:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    sources = pictures(tmp_path / "images", 6)
    found, computed = run(folder, sources, loader(tiny_flux))
    assert 0 < computed <= 4
    assert files(found) == files(run(tmp_path / "whole", sources, loader(tiny_flux))[0])


def test_an_unreadable_image_keeps_what_was_done(tiny_flux: Path, tmp_path: Path) -> None:
    sources = pictures(tmp_path / "images", 4)
    whole = sources[2].path.read_bytes()
    sources[2].path.write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"2\.png: not a readable image"):
        run(tmp_path / "a", sources, loader(tiny_flux))
    sources[2].path.write_bytes(whole)
    assert run(tmp_path / "a", sources, loader(tiny_flux))[1] == 2


def test_each_distinct_prompt_is_encoded_once(tiny_flux: Path, tmp_path: Path) -> None:
    loads: list[int] = []

    def load() -> TextEncoder:
        loads.append(1)
        return TextEncoder(lambda part: tiny_flux / part, torch.float32, "cpu")

    assert encode_prompts(["a cat", "a dog", "a cat"], tmp_path, load) == 2
    assert encode_prompts(["a dog"], tmp_path, load) == 0
    assert encode_prompts(["a dog", "a bus"], tmp_path, load) == 1
    assert len(loads) == 2
    assert load_text(tmp_path, "a cat").t5.shape == (32, 32)
    assert not torch.equal(load_text(tmp_path, "a cat").t5, load_text(tmp_path, "a dog").t5)
    with pytest.raises(UserError, match="'a tree' is not encoded"):
        load_text(tmp_path, "a tree")
    (tmp_path / file_name("a cat")).write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        load_text(tmp_path, "a cat")


def test_flux_dev_reads_at_most_66_percent_for_block_28() -> None:
    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    needed = needed_tensors(sizes, dict(model.config), 28)
    assert sum(sizes[name] for name in needed) <= 0.66 * sum(sizes.values())


def shard(folder: Path) -> None:
    """Split a transformer's weights over three files with an index, as large models are stored."""
    import json

    whole = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    index: dict[str, str] = {}
    names = sorted(tensors, key=lambda name: (name.startswith("single"), name))
    for number in range(3):
        file = f"diffusion_pytorch_model-{number + 1:05d}-of-00003.safetensors"
        part = names[number * len(names) // 3 : (number + 1) * len(names) // 3]
        save_file({name: tensors[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    whole.unlink()
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_sharded_weights_load_and_unneeded_files_do_not(tiny_flux: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    shutil.copytree(tiny_flux / "transformer", folder)
    shard(folder)
    wanted = weight_patterns(folder, [3])
    for path in folder.glob("*.safetensors"):
        if path.name not in wanted:
            path.unlink()
    assert len(wanted) < 3
    text, latents = text_of("x"), torch.randn(1, 16, 4, 4)
    found = FluxTransformer.load(folder, [3], torch.float32, "cpu").capture(latents, text, 100, 3.5)[3]
    whole = FluxTransformer.load(tiny_flux / "transformer", [3], torch.float32, "cpu").capture(latents, text, 100, 3.5)[
        3
    ]
    assert torch.equal(found, whole)


def test_broken_model_folders_are_told(tiny_flux: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"

    def message(block: int = 3) -> str:
        with pytest.raises(UserError) as caught:
            FluxTransformer.load(folder, [block], torch.float32, "cpu")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.json: not found" in message()
    shutil.copytree(tiny_flux / "transformer", folder)
    assert "blocks: 57 asked for, but" in message(57)
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    text = config.read_text()
    config.write_text(text.replace('"attention_head_dim": 16', '"attention_head_dim": 32'))
    assert "tensors disagree with config.json" in message()
    config.write_text(text.replace("FluxTransformer2DModel", "Other"))
    assert "not FluxTransformer2DModel" in message()
    config.write_text("{")
    assert "not valid JSON" in message()
    config.write_text(text)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "weights cannot be read" in message()
    weights.unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    assert "safetensors only" in message()
