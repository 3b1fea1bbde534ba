"""Every family: its features and modulation are those of the whole, unmodified model of diffusers or transformers."""

from __future__ import annotations

import contextlib
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditf.backbones.base import Backbone
from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.diffusion.latents import LatentEncoder, patches, tokens
from ditf.backbones.diffusion.settings import Diffusion
from ditf.backbones.families.vit import ViT
from ditf.backbones.networks.flux import LoadedFlux
from ditf.backbones.networks.vit import LoadedViT, blocks_of, final_norm_of
from ditf.backbones.source import Model, pin
from ditf.errors import UserError
from ditf.features.descriptors import describe
from ditf.features.extractor import Extractor, noise_generator
from ditf.files import Hashes
from ditf.registry import find_type
from ditf.types import Condition

# Of each family, blocks of every kind: double and single, with one attention and with two.
BLOCKS = {
    "flux": [3, 21],
    "flux2": [2, 5, 9],
    "pixart": [0, 7],
    "qwen_image": [1, 4],
    "sana": [2, 5],
    "sd3": [4, 14],
    "unet": [0, 2],
    "z_image": [0, 3],
}
FAMILIES = sorted(BLOCKS)
MODULATED = [family for family in FAMILIES if family != "unet"]
STACKS = ("transformer_blocks", "single_transformer_blocks", "layers", "up_blocks")
PROMPT = "a photo of a cat"
HEIGHT, WIDTH = 64, 96  # whole tokens of every family
PIXELS = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
Loaded = tuple[LoadedDiffusion, dict[str, Tensor]]


def settings_of(family: str, **settings: Any) -> Diffusion:
    """Settings of a family, for one noise sample unless given."""
    kind = find_type(Backbone, family)
    values: dict[str, Any] = {"blocks": BLOCKS[family], "ensemble_size": 1, "timestep": 260}
    found = kind(**values | settings)
    assert isinstance(found, Diffusion)
    return found


def tiny(family: str) -> Model:
    return pin(family, "tiny-0", "main", Hashes(None))


@cache
def encoded_prompt(family: str) -> dict[str, Tensor]:
    return next(iter(settings_of(family).encode_prompts(tiny(family), [PROMPT], torch.float32, "cpu")))


def load(family: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Loaded:
    """A loaded tiny model, and an encoded prompt."""
    return settings_of(family, **settings).load(tiny(family), dtype, "cpu"), encoded_prompt(family)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def whole(family: str) -> Any:
    """The whole denoiser, as diffusers loads it."""
    folder = tiny(family).component(settings_of(family).denoiser)
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder).eval()


def stack(network: nn.Module) -> list[Any]:
    """The blocks of a whole denoiser, found by their names in diffusers."""
    return [block for name in STACKS if hasattr(network, name) for block in getattr(network, name)]


def image_part(family: str, hidden: Tensor, count: int) -> Tensor:
    """Of a stream of image and text, the image: last in FLUX's single blocks, first in Z-Image."""
    if family == "unet":
        return hidden.flatten(2).transpose(1, 2)
    return hidden[:, :count] if family == "z_image" else hidden[:, -count:]


def catch(module: nn.Module, found: dict[int, Tensor], number: int) -> None:
    """Keep the hidden states with which a module is called."""

    def hook(_module: nn.Module, args: Any, named: dict[str, Any]) -> None:
        found[number] = named["hidden_states"] if "hidden_states" in named else args[0]

    module.register_forward_pre_hook(hook, with_kwargs=True)


def features(part: LoadedDiffusion, text: dict[str, Tensor]) -> tuple[Any, Tensor, dict[int, Tensor]]:
    """An image through a part of a model: encoded, its noisy latents, its features."""
    with torch.inference_mode():
        encoded = part.encode(PIXELS)
        noise = torch.randn((1, 2, *encoded.mean.shape), generator=noise_generator(0, "image", 0))
        latents = part.encoder.noisy(encoded, noise, *part.noise_factors)
        return encoded, latents, part.capture(encoded, text, [noise_generator(0, "image", 0)])


def test_features_and_adaln_are_those_of_the_whole_model(family: str) -> None:
    """What enters a block, and what it hands to its attention.

    In double precision, so that rounding, which differs between processors, stays far below the tolerance.
    """
    part, text = load(family, torch.float64)
    encoded, latents, found = features(part, text)
    network, states, attended = whole(family).double(), dict[int, Tensor](), dict[int, Tensor]()
    for number in BLOCKS[family]:
        block = stack(network)[number]
        if family == "unet":
            block.register_forward_hook(lambda _m, _a, output, n=number: states.update({n: output}))
            continue
        catch(block, states, number)
        attention = next(getattr(block, n) for n in ("attn", "attn1", "attention") if hasattr(block, n))
        catch(attention, attended, number)
    with torch.inference_mode():
        network(**part.arguments(latents.double(), part.batch(text, 1)))
        modulation = part.modulation(encoded, text, "both") if family in MODULATED else {}
    for number in BLOCKS[family]:
        stride, channels = part.shape(number)
        count = HEIGHT * WIDTH // stride**2
        assert found[number].shape == (1, count, channels)
        torch.testing.assert_close(found[number], image_part(family, states[number], count), rtol=0, atol=1e-6)
        if family in MODULATED:
            assert part.norm is not None
            adaln = describe(found[number][0].numpy(), modulation[number].numpy(), "adaln", norm=part.norm)
            np.testing.assert_allclose(adaln, image_part(family, attended[number], count)[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_modulation_by_timestep_and_by_text_alone(family: str) -> None:
    part, text = load(family)
    encoded, _, _ = features(part, text)
    other = {name: tensor + 1 for name, tensor in text.items()}
    later, _ = load(family, timestep=700)
    cases: list[tuple[Condition, bool, bool]] = [("both", True, True), ("t", False, True), ("c", True, False)]
    for condition, of_text, of_time in cases:
        for block, one in part.modulation(encoded, text, condition).items():
            same_text = torch.equal(one, part.modulation(encoded, other, condition)[block])
            same_time = torch.equal(one, later.modulation(encoded, text, condition)[block])
            assert (same_text, same_time) == (not of_text, not of_time)
    # What is embedded is a sum, so that both parts make up the whole before the block's own layer.
    batch, size = part.batch(text, 1), encoded.mean.shape[-2:]
    both, time, words = (part.embedding(batch, size, c) for c in ("both", "t", "c"))
    torch.testing.assert_close(both, time + words)


class _CaughtError(Exception):
    pass


def test_the_denoiser_is_called_as_its_own_pipeline_calls_it(family: str) -> None:
    folder = tiny(family).component("", ())
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    network, caught = getattr(pipeline, settings_of(family).denoiser), dict[str, Any]()

    def hook(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        names = {"z_image": ("x", "t", "cap_feats"), "unet": ("sample", "timestep")}.get(family, ("hidden_states",))
        caught.update(dict(zip(names, args, strict=False)) | named)
        raise _CaughtError

    network.register_forward_pre_hook(hook, with_kwargs=True)
    options: dict[str, Any] = {"guidance_scale": 0.0}
    if family == "flux":
        options = {"guidance_scale": 3.5, "max_sequence_length": 32}  # the tiny tokenizer's
    if family == "qwen_image":
        options = {"true_cfg_scale": 1.0}
    if family in ("pixart", "sana"):
        options |= {"clean_caption": False, "use_resolution_binning": False}
    with contextlib.suppress(_CaughtError), torch.inference_mode():
        pipeline(prompt=PROMPT, height=HEIGHT, width=WIDTH, num_inference_steps=1, **options)
    first = float(torch.as_tensor(pipeline.scheduler.timesteps[0]))
    part, text = load(family, timestep=round(first))
    _, latents, _ = features(part, text)
    ours = part.arguments(latents, part.batch(text, 1))
    assert abs(first - round(first)) < 1e-3
    for name, value in ours.items():
        theirs = caught[name]
        if name in ("hidden_states", "sample", "x"):
            assert [tuple(v.shape) for v in value] == [tuple(t.shape) for t in theirs]
        elif isinstance(value, Tensor):
            torch.testing.assert_close(value.float().squeeze(), torch.as_tensor(theirs).float().squeeze())
        elif isinstance(value, dict):
            for key in value:
                torch.testing.assert_close(value[key], theirs[key])
        elif isinstance(value, list) and isinstance(value[0], Tensor):
            torch.testing.assert_close(value[0], theirs[0])
        else:
            assert value == theirs


@pytest.mark.parametrize("name", ["FluxPipeline", "QwenImagePipeline"])
def test_latents_are_packed_as_pipelines_pack_them(name: str) -> None:
    latents = torch.randn(2, 16, 8, 12)
    theirs = getattr(diffusers, name)._pack_latents(latents, 2, 16, 8, 12)
    torch.testing.assert_close(tokens(patches(latents)), theirs)


def test_latents_of_flux2_are_standardized_as_its_pipeline_does() -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny("flux2").component("", ()))
    encoder = LatentEncoder.load(tiny("flux2").component("vae"), torch.float32, "cpu")
    with torch.inference_mode():
        theirs = pipeline._encode_vae_image(PIXELS[None], torch.Generator())
        ours = encoder.noisy(encoder.encode(PIXELS), torch.zeros(1, 2, 128, HEIGHT // 16, WIDTH // 16), 1.0, 0.0)
    torch.testing.assert_close(ours, theirs)


def test_only_what_the_deepest_block_needs_is_read(family: str) -> None:
    part, _ = load(family)
    network, deepest = whole(family), max(BLOCKS[family])
    sizes = {name: tensor.numel() for name, tensor in network.state_dict().items()}
    names = {id(module): name for name, module in network.named_modules()}
    read = set(part.tensors_read)
    for number, block in enumerate(stack(network)):
        own = {f"{names[id(block)]}.{name}" for name in block.state_dict()}
        if number < deepest or (number == deepest and family == "unet"):
            assert own <= read
        elif number > deepest:
            assert not own & read
        else:
            modulation = ("norm1.", "norm.linear", "scale_shift_table", "img_mod.", "adaLN_modulation.")
            assert all(any(word in name for word in modulation) for name in own & read)
            assert not any("attn" in name or "ff" in name or "mlp" in name for name in own & read)
    assert sum(sizes[name] for name in read) < sum(sizes.values())
    assert sum(weight.numel() for weight in part.model.state_dict().values()) == sum(sizes[name] for name in read)
    assert not any(weight.is_meta for weight in part.model.parameters())


def test_several_blocks_and_noise_samples_in_one_pass(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, text = load(family, ensemble_size=3)
    one = Extractor(part, part.settings, batch_size=1)
    pixels = ((PIXELS + 1) * 127.5).permute(1, 2, 0).round().to(torch.uint8).numpy()
    calls: list[int] = []
    original = LatentEncoder.encode

    def counted(self: LatentEncoder, x: Tensor) -> Any:
        calls.append(1)
        return original(self, x)

    monkeypatch.setattr(LatentEncoder, "encode", counted)
    found, again = (Extractor(part, part.settings, batch_size=n).features(pixels, text, "image") for n in (1, 2))
    assert len(calls) == 2  # once per image
    assert sorted(found) == BLOCKS[family]
    for block in found:
        np.testing.assert_allclose(found[block][0], again[block][0], atol=1e-5)
        alone, _ = load(family, ensemble_size=3, blocks=[block])
        expected = Extractor(alone, alone.settings, batch_size=1).features(pixels, text, "image")[block][0]
        np.testing.assert_allclose(found[block][0], expected, atol=1e-6)
    different = one.features(pixels, text, "other")
    assert not np.allclose(different[BLOCKS[family][0]][0], found[BLOCKS[family][0]][0])


def test_the_size_of_the_image_is_part_of_pixarts_modulation() -> None:
    part, text = load("pixart")
    assert part.modulation_depends_on_size
    encoded = part.encode(PIXELS)
    wide = part.encode(PIXELS[:, :32])
    block = BLOCKS["pixart"][0]
    assert not torch.equal(part.modulation(encoded, text, "both")[block], part.modulation(wide, text, "both")[block])


def test_broken_folders_are_reported(family: str, tmp_path: Path) -> None:
    folder, settings = tmp_path / "denoiser", settings_of(family)

    def message(**changed: Any) -> str:
        with pytest.raises(UserError) as caught:
            settings_of(family, **changed).network().load_denoiser(
                settings_of(family, **changed), folder, torch.float32, "cpu"
            )
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.json: not found" in message()
    shutil.copytree(tiny(family).component(settings.denoiser), folder)
    assert "blocks: 99 is not a block" in message(blocks=[99])
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    text, data = config.read_text(), weights.read_bytes()
    config.write_text(text.replace('"_class_name": "', '"_class_name": "Other'))
    assert "_class_name is" in message()
    config.write_text("{")
    assert "not valid JSON" in message()
    config.write_text(text)
    state = load_file(weights)
    name = next(n for n in state if n.split(".")[0] in (*STACKS, "down_blocks"))
    save_file({n: w for n, w in state.items() if n != name}, weights)
    assert f"tensors disagree with config.json: {name} is missing" in message()
    save_file(state | {name: torch.zeros(7, 7)}, weights)
    assert "tensors disagree with config.json" in message()
    weights.write_bytes(data[:1000])
    assert "weights cannot be read" in message()
    weights.unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    assert "only safetensors are read" in message()
    weights.with_name("diffusion_pytorch_model.fp16.safetensors").write_bytes(data)
    assert "has only weights of the variant 'fp16'" in message()


def test_another_pipeline_or_autoencoder_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny("flux").component("", ()), folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("FluxPipeline", "FluxFillPipeline"))
    with pytest.raises(UserError, match="_class_name is 'FluxFillPipeline'; this family reads FluxPipeline"):
        list(settings_of("flux").encode_prompts(Model("flux", str(folder), "", ""), [PROMPT], torch.float32, "cpu"))
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace("AutoencoderKL", "AutoencoderTiny"))
    with pytest.raises(UserError, match="_class_name is 'AutoencoderTiny', not one of"):
        LatentEncoder.load(folder / "vae", torch.float32, "cpu")


def test_stable_diffusion_3_without_t5_gets_zeros(tmp_path: Path) -> None:
    """As diffusers saves it: without the folders, and with [null, null] in the index."""
    folder = tmp_path / "model"
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
        tiny("sd3").component("", ()), text_encoder_3=None, tokenizer_3=None
    )
    pipeline.save_pretrained(folder)
    assert not (folder / "text_encoder_3").exists()
    model = pin("sd3", str(folder), "main", Hashes(None))
    [text] = settings_of("sd3").encode_prompts(model, [PROMPT], torch.float32, "cpu")
    with torch.inference_mode():
        embeds, _, pooled, _ = pipeline.encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(text["prompt_embeds"], embeds[0], rtol=0, atol=0)
    torch.testing.assert_close(text["pooled"], pooled[0], rtol=0, atol=0)
    assert not text["prompt_embeds"][77:].any()
    whole_sizes, sizes = (settings_of("sd3").sizes(one) for one in (tiny("sd3"), model))
    assert whole_sizes.text_weights > sizes.text_weights > 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rescale_betas_zero_snr": True},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_start": 0.001, "beta_end": 0.02},
        {"trained_betas": np.linspace(0.0001, 0.05, 1000).tolist()},
        {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
        {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
        {"_class_name": "DPMSolverMultistepScheduler"},
    ],
    ids=str,
)
def test_noise_is_that_of_the_models_own_scheduler(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    shutil.copytree(tiny("unet").component("", ()), folder)
    path = folder / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(config))
    scheduler = getattr(diffusers, config["_class_name"]).from_pretrained(folder / "scheduler")
    alpha = float(scheduler.alphas_cumprod[261])
    part = settings_of("unet", timestep=261).load(pin("unet", str(folder), "main", Hashes(None)), torch.float32, "cpu")
    assert part.noise_factors == pytest.approx((alpha**0.5, (1 - alpha) ** 0.5), rel=1e-6)
    if fields == {"rescale_betas_zero_snr": True}:
        assert part.noise_factors[0] == pytest.approx(0.7958, abs=1e-4)
    if not hasattr(scheduler, "add_noise") or not config["_class_name"].startswith("DD"):
        return
    one, noise, timesteps = torch.ones(1, 1), torch.full((1, 1), 2.0), torch.tensor([261])
    mixture = scheduler.add_noise(one, noise, timesteps)
    torch.testing.assert_close(part.noise_factors[0] * one + part.noise_factors[1] * noise, mixture)


@pytest.mark.parametrize(
    "text", ["{", '{"_class_name": "Nothing"}', '{"_class_name": "FluxPipeline"}', '{"beta_schedule": "x"}', "[]"]
)
def test_a_scheduler_that_cannot_be_used_is_one_line(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    shutil.copytree(tiny("unet").component("", ()), folder)
    (folder / "scheduler/scheduler_config.json").write_text(text)
    with pytest.raises(UserError, match=r"scheduler_config\.json: gives no noise at t = 260") as caught:
        settings_of("unet").load(pin("unet", str(folder), "main", Hashes(None)), torch.float32, "cpu")
    assert "\n" not in str(caught.value)


def shard(folder: Path) -> None:
    """Split a denoiser's weights over three files with an index, as large models are stored."""
    path = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    index: dict[str, str] = {}
    names = sorted(state, key=lambda name: (name.startswith("single"), name))
    for number in range(3):
        file = f"diffusion_pytorch_model-{number + 1:05d}-of-00003.safetensors"
        part = names[number * len(names) // 3 : (number + 1) * len(names) // 3]
        save_file({name: state[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    path.unlink()
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_sharded_weights_load_and_unneeded_files_do_not(tmp_path: Path) -> None:
    source, folder = tiny("flux").component("transformer"), tmp_path / "transformer"
    shutil.copytree(source, folder)
    shard(folder)
    needed = LoadedFlux.layout.weight_patterns(folder, [3])
    for path in folder.glob("*.safetensors"):
        if path.name not in needed:
            path.unlink()
    assert len(needed) < 3
    text = {"prompt_embeds": torch.randn(32, 32), "pooled": torch.randn(24)}
    latents = torch.randn(1, 16, 4, 4)
    one, other = (
        settings_of("flux", blocks=[3])
        .network()
        .load_denoiser(settings_of("flux", blocks=[3]), place, torch.float32, "cpu")
        .features(latents, text)[3]
        for place in (folder, source)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_flux_dev_reads_at_most_66_percent_for_block_28() -> None:
    with torch.device("meta"):
        network = FluxTransformer2DModel(guidance_embeds=True)
    sizes = {name: tensor.numel() for name, tensor in network.state_dict().items()}
    needed = LoadedFlux.layout.needed(network, 28)
    assert sum(sizes[name] for name in needed) <= 0.66 * sum(sizes.values())


@pytest.mark.parametrize("final_norm", [False, True])
def test_vision_transformers_give_their_hidden_states(final_norm: bool) -> None:
    import transformers

    folder = tiny("vit").component("")
    network = transformers.Dinov2Model.from_pretrained(folder).eval()
    part = ViT(blocks=[2, 11], final_norm=final_norm).load(tiny("vit"), torch.float32, "cpu")
    assert len(blocks_of(part.model)) == 12  # type: ignore[attr-defined]
    assert len(blocks_of(ViT(blocks=[2]).load(tiny("vit"), torch.float32, "cpu").model)) == 3  # type: ignore[attr-defined]
    with torch.inference_mode():
        encoded = part.encode(torch.rand(3, 224, 224) * 2 - 1)  # the model's own size: no position is interpolated
        states = network(encoded, output_hidden_states=True).hidden_states
        found = part.capture(encoded, {}, [])
        for block in (2, 11):
            expected = states[block + 1][:, 1:]
            expected = final_norm_of(network)(expected) if final_norm else expected
            torch.testing.assert_close(found[block], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "config", "prefix"),
    [
        ("Dinov2WithRegistersModel", {"num_register_tokens": 4}, 5),
        ("DINOv3ViTModel", {"num_register_tokens": 4}, 5),
        ("SiglipVisionModel", {}, 0),
        ("CLIPVisionModel", {}, 1),
        ("ViTModel", {}, 1),
    ],
)
def test_other_vision_transformers(kind: str, config: dict[str, int], prefix: int, tmp_path: Path) -> None:
    import transformers

    model = getattr(transformers, kind)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    network = model(model.config_class(**sizes, patch_size=16, image_size=64, **config)).eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    part = LoadedViT.load(tmp_path, [1], False, torch.float32, "cpu")
    image = torch.rand(3, 64, 64) * 2 - 1
    caught: dict[int, Tensor] = {}
    blocks_of(network)[1].register_forward_hook(
        lambda _m, _a, out: caught.update({1: out[0] if isinstance(out, tuple) else out})
    )
    with torch.inference_mode():
        network(image[None])
        torch.testing.assert_close(
            part.capture(part.encode(image), {}, [])[1], caught[1][:, prefix:], atol=1e-6, rtol=0
        )
        wide = part.capture(part.encode(torch.rand(3, 48, 80) * 2 - 1), {}, [])[1]
    assert wide.shape == (1, 15, 32)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"config.json": None}, "not a model's configuration"),
        ({"config.json": '{"model_type": "bert"}'}, "is not a vision transformer of patches"),
        ({"preprocessor_config.json": '{"image_mean": [1]}'}, "gives no mean and standard deviation"),
        ({"model.safetensors": None}, "has no .safetensors file"),
    ],
)
def test_broken_folders_of_vision_transformers_are_reported(
    change: dict[str, str | None], expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny("vit").component(""), folder)
    for name, text in change.items():
        (folder / name).unlink()
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        LoadedViT.load(folder, [1], False, torch.float32, "cpu")
    assert "\n" not in str(caught.value)


def test_a_block_that_a_vision_transformer_has_not_is_reported() -> None:
    with pytest.raises(UserError, match=r"blocks: 12 is not a block of .*, which has 0\.\.11"):
        ViT(blocks=[12]).load(tiny("vit"), torch.float32, "cpu")
