"""Equality with the published programs, on the answers that they computed.

A slice of the answers is in this repository; all of them run where they are present.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import reference
from ditf.backbones.diffusion.latents import Posterior
from ditf.backbones.families.flux import Flux
from ditf.backbones.families.unet import UNet
from ditf.backbones.families.vit import ViT
from ditf.backbones.source import Model
from ditf.data.catalog import Catalog, write_catalog
from ditf.data.images import resize_for_model
from ditf.data.masks import read_index_mask
from ditf.datasets.spair import SPair
from ditf.features.store import FeatureStore
from ditf.features.store_writer import StoreItem, write_store
from ditf.matching.pairs import MatchingJob, predict
from ditf.metrics.pck import PREDICTIONS, pck
from ditf.metrics.segmentation import evaluate_frame, summarize
from ditf.propagation.labels import first_labels, hard_mask
from ditf.propagation.propagate import propagate
from ditf.propagation.voting import PropagationConfig
from ditf.types import Descriptor, Encoding

MASSIVE = (154, 1446)
SLICE = Path(__file__).parent / "golden"
Measures = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


# The answers' own rounding: in float64 they differ from the features by 7.4e-5 at magnitudes up to 10.4; float32
# differs from float64 by as much again, depending on the processor.
FLUX_ROUNDING = 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("blocks", [[19], [24], [28], [19, 24, 28]], ids=str)
def test_flux_features_and_modulation(golden: Path, blocks: list[int], dtype: torch.dtype) -> None:
    folder = golden / "flux"
    case, case_of = load_file(folder / "case.safetensors"), json.loads((folder / "case.json").read_text())
    h, w = case_of["grid"]
    latents = case["latents"].reshape(-1, h, w, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * h, 2 * w)
    text = {"prompt_embeds": case["prompt_embeds"][0], "pooled": case["pooled_prompt_embeds"][0]}
    settings = Flux(blocks=blocks, timestep=int(case_of["timestep"]), guidance=case_of["guidance"])
    flux = settings.network().load_denoiser(settings, folder / "transformer", dtype, "cpu")

    features = flux.features(latents, text)
    modulation = flux.modulation(Posterior(latents[0], latents[0]), text, "both")

    for block in blocks:
        limit = FLUX_ROUNDING if dtype == torch.float64 else 2 * FLUX_ROUNDING
        torch.testing.assert_close(features[block].float(), case[f"block{block}.feature"], rtol=0, atol=limit)
        for row, name in enumerate(("shift", "scale", "gate")):
            expected = case[f"block{block}.{name}"][0]
            torch.testing.assert_close(modulation[block][row].float(), expected, rtol=0, atol=limit / 10)
    read = [n for n in flux.tensors_read if n.startswith("single_transformer_blocks.")]
    assert max(int(n.split(".")[1]) for n in read) == blocks[-1] - 19
    assert [n for n in read if int(n.split(".")[1]) == blocks[-1] - 19 and ".norm.linear." not in n] == []


@pytest.mark.parametrize("number", range(4))
def test_unet_features_of_each_up_block(golden: Path, number: int) -> None:
    case, runs = load_file(golden / "dift/case.safetensors"), json.loads((golden / "dift/case.json").read_text())
    run = runs["unet_runs"][number]
    settings = UNet(blocks=[0, 1, 2, 3], timestep=run["timestep"], ensemble_size=run["ensemble_size"])
    part = settings.network().load_denoiser(settings, golden / "dift/model/unet", torch.float32, "cpu")
    found = part.features(case[run["latents"]], {"prompt_embeds": case[run["encoder_hidden_states"]][0]})
    for answer in run["features"]:
        block = answer["up_ft_index"]
        for tokens, name in ((found[block], "feature"), (found[block].mean(0, keepdim=True), "ensembled")):
            torch.testing.assert_close(tokens, case[answer[name]].flatten(2).transpose(1, 2), rtol=0, atol=1e-4)
        assert part.shape(block) == (answer["downscale"], answer["shape"][1])


@pytest.mark.parametrize("number", range(3))
def test_unet_features_from_pixels(golden: Path, number: int) -> None:
    folder = golden / "dift"
    case, runs = load_file(folder / "case.safetensors"), json.loads((folder / "case.json").read_text())
    run = runs["end_to_end"][number]
    tensors = {name: case[key] for name, key in run["tensors"].items()}
    model = Model("unet", str(folder / "model"), "main", "")
    settings = UNet(blocks=[run["up_ft_index"]], timestep=run["timestep"])
    part = settings.load(model, torch.float32, "cpu")
    text = next(iter(settings.encode_prompts(model, [run["prompt"]], torch.float32, "cpu")))
    torch.testing.assert_close(text["prompt_embeds"], case[run["encoder_hidden_states"]][0], rtol=0, atol=1e-5)

    image, width, height = tensors["image"].numpy(), run["pixels_shape"][2], run["pixels_shape"][1]
    if "short_side" in run:
        resized = resize_for_model(image, "shorter", run["short_side"], part.stride)
    else:
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    pixels = torch.tensor(resized).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, tensors["pixels"], rtol=0, atol=1e-6)
    encoded = part.encode(pixels)
    torch.testing.assert_close(encoded.mean, tensors["posterior_mean"][0], rtol=0, atol=1e-4)
    latents = part.encoder.noisy(
        encoded, torch.stack([tensors["posterior_noise"], tensors["noise"]], 1), *part.noise_factors
    )
    torch.testing.assert_close(latents, tensors["noisy_latents"], rtol=0, atol=1e-4)
    found = part.features(latents, text)[run["up_ft_index"]]
    torch.testing.assert_close(found.mean(0), tensors["ensembled"][0].flatten(1).T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["small", "wide", "native", "landscape", "portrait"])
def test_dinov2_tokens_of_each_block(golden: Path, name: str) -> None:
    folder = golden / "fusion/dino"
    case, inputs = load_file(folder / "case.safetensors"), json.loads((folder / "case.json").read_text())["inputs"]
    model = Model("vit", str(folder / "model"), "main", "")
    for final_norm in (False, True):
        part = ViT(blocks=[0, 1, 2, 3], final_norm=final_norm).load(model, torch.float32, "cpu")
        if f"{name}.input" in case:
            encoded = case[f"{name}.input"]
        else:
            file = folder / (inputs[name].get("canvas") or inputs[name]["file"])
            pixels = torch.tensor(np.asarray(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
            encoded = part.encode(pixels)
        found = part.capture(encoded, {}, [])
        answers = {"norm": 3} if final_norm else {f"block{block}": block for block in found}
        for answer, block in answers.items():
            expected = case.get(f"{name}.published.{answer}")
            if expected is not None:
                assert (found[block][0] - expected).norm() <= 1e-5 * expected.norm()


def make_spair(golden: Path, folder: Path, encoding: Encoding) -> tuple[FeatureStore, Catalog]:
    """The golden features in a store, and the catalog of their images."""
    root = golden / "spair" / "SPair-mini"
    tables = SPair(type="spair", root=str(root), captions="captions.json").read()
    write_catalog(folder / "catalog", tables)
    tensors = load_file(golden / "spair" / "features.safetensors")
    items, features = [], []
    for row in tables.rows["images"]:
        x = tensors[f"{row['id']}.jpg.feature"][0].float()
        modulation = tensors[f"{row['id']}.jpg.modulation"][0].float().numpy()
        size = (row["width"], row["height"])
        items.append(StoreItem(row["id"], row["id"], (x.shape[1], x.shape[2]), size, row["id"]))
        features.append({28: (x.flatten(1).T.numpy(), modulation)})
    return write_store(folder / "store", items, features, encoding), Catalog(folder / "catalog")


@pytest.fixture(scope="module")
def spair(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Catalog]:
    return make_spair(golden, tmp_path_factory.mktemp("spair"), "float16")


@pytest.mark.parametrize(("answer", "descriptor"), [("keep", "adaln"), ("discard", "adaln+discard")])
def test_spair_pixels_and_pck(
    golden: Path, spair: tuple[FeatureStore, Catalog], answer: str, descriptor: Descriptor
) -> None:
    store, catalog = spair
    expected = json.loads((golden / "spair" / f"expected_{answer}.json").read_text())
    found = predict(MatchingJob(store, 28, descriptor, MASSIVE), catalog)

    rows = {(r["pair"], r["source_x"], r["source_y"]): r for r in found.to_pylist()}
    assert len(rows) == len(expected["predictions"])
    pairs = {pair["pair"]: pair for pair in catalog.rows("pairs")}
    identical = 0
    for answered in expected["predictions"]:
        row, pair = rows[(answered["pair"], *answered["src"])], pairs[answered["pair"]]
        if [row["predicted_x"], row["predicted_y"]] == answered["pred"]:
            identical += 1
            continue
        images = [store.features(28, pair[side]) for side in ("source", "target")]
        maps = [torch.from_numpy(image.map(descriptor, MASSIVE).copy()) for image in images]
        sizes = [image.size for image in images]
        theirs = reference.similarity_at(maps[0], maps[1], sizes, answered["src"], answered["pred"])
        assert abs(row["similarity"] - theirs) < 1e-6
    assert identical >= 0.95 * len(rows)
    check_pck(found, expected)


def check_pck(predictions: pa.Table, expected: dict[str, Any]) -> None:
    scores = {row["value"]: row for row in pck(predictions, [0.1]) if row["group"] == "category"}
    for kind in ("image", "point"):
        assert {name: round(scores[name][kind], 2) for name in scores} == expected["metrics"][kind]


@pytest.mark.parametrize("answer", ["keep", "discard"])
def test_pck_of_the_published_predictions(answer: str) -> None:
    expected = json.loads((SLICE / "spair" / f"expected_{answer}.json").read_text())
    rows = []
    for number, row in enumerate(expected["predictions"]):
        columns = {
            "descriptor": "adaln",
            "keypoint": number,
            "similarity": 1.0,
            "confidence": 1.0,
            "threshold": row["threshold"],
        }
        error = float(np.linalg.norm(np.subtract(row["pred"], row["trg"])))
        points = dict.fromkeys((f"{name}_{axis}" for name in ("source", "target", "predicted") for axis in "xy"), 0)
        rows.append({**columns, **points, "pair": row["pair"], "category": row["category"], "error": error})
    check_pck(pa.Table.from_pylist(rows, schema=PREDICTIONS), expected)


@pytest.mark.parametrize("descriptor", ["adaln", "adaln+discard"])
def test_int8_costs_little_pck(
    golden: Path, spair: tuple[FeatureStore, Catalog], tmp_path: Path, descriptor: Descriptor
) -> None:
    both = make_spair(golden, tmp_path, "int8"), spair
    found = [pck(predict(MatchingJob(store, 28, descriptor, MASSIVE), catalog), [0.1]) for store, catalog in both]
    for row, exact in zip(*found, strict=True):
        if row["value"] in ("All", "Mean"):
            assert abs(row["point"] - exact["point"]) <= 0.3
            assert abs(row["image"] - exact["image"]) <= 0.3


def test_massive_channels_are_found(spair: tuple[FeatureStore, Catalog]) -> None:
    assert spair[0].massive(28) == list(MASSIVE)


def official(truth: Path, predictions: Path) -> Measures:
    """J and F over the inner frames of every object, of masks on disk."""
    objects: Measures = {}
    for sequence in sorted(path.name for path in predictions.iterdir()):
        names = sorted(path.name for path in (truth / sequence).iterdir())
        masks = [read_index_mask(truth / sequence / name) for name in names]
        inner = [
            evaluate_frame(mask, read_index_mask(predictions / sequence / name), int(masks[0].max()))
            for mask, name in zip(masks[1:-1], names[1:-1], strict=True)
        ]
        objects |= {f"{sequence}_{i + 1}": values for i, values in enumerate(np.stack(inner, 1))}
    return objects


def check_official(found: Measures, expected: dict[str, Any]) -> None:
    for name, value in summarize(found).items():
        assert abs(value - expected[name]) < 1e-6, name
    for column, measure in enumerate("JF"):
        for name, value in expected[f"{measure}_per_object"].items():
            assert abs(found[name][:, column].mean() - value) < 1e-6, name


def voting_of(params: dict[str, Any]) -> PropagationConfig:
    return PropagationConfig(
        params["topk"], params["temperature"], params["n_last_frames"], params["size_mask_neighborhood"]
    )


def read_davis(folder: Path, setting: str) -> tuple[Any, dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Tensors, answers, and true masks of a golden setting."""
    tensors, answer = load_file(folder / f"{setting}.safetensors"), json.loads((folder / f"{setting}.json").read_text())
    paths = sorted((folder / "DAVIS/Annotations/480p/marbles").iterdir())
    return tensors, answer, [read_index_mask(path) for path in paths]


def store_of(path: Path, tensors: Any, encoding: Encoding) -> FeatureStore:
    x = tensors["feature"].float()
    modulation = tensors["modulation"][0].float().numpy()
    items = [StoreItem(str(i), str(i), (x.shape[2], x.shape[3]), (16, 16), "") for i in range(len(x))]
    return write_store(path, items, ({24: (frame.flatten(1).T.numpy(), modulation)} for frame in x), encoding)


@pytest.mark.parametrize("setting", ["near", "default", "unmasked", "discard"])
def test_davis_soft_masks_pngs_and_metrics(golden: Path, tmp_path: Path, setting: str) -> None:
    check_davis(golden / "davis", tmp_path, setting)


def test_davis_slice(tmp_path: Path) -> None:
    check_davis(SLICE / "davis", tmp_path, "near")


def check_davis(folder: Path, scratch: Path, setting: str) -> None:
    tensors, answer, masks = read_davis(folder, setting)
    p = answer["params"]
    frames, _, h, w = tensors["feature"].shape
    labels = first_labels(masks[0], (h, w))
    np.testing.assert_array_equal(labels, tensors["first_mask"][0].numpy())

    descriptor: Descriptor = "adaln+discard" if p["cd"] else "adaln"
    store = store_of(scratch / "store", tensors, "float32")
    maps = (store[item].descriptors(descriptor, MASSIVE if p["cd"] else ()) for item in store.ids)
    found = list(propagate(maps, labels, voting_of(p)))

    assert len(found) == frames - 1
    np.testing.assert_allclose(np.stack(found), tensors["soft_masks"].numpy(), atol=1e-4, rtol=0)
    size = (masks[0].shape[1], masks[0].shape[0])
    for number, soft in enumerate(found, 1):
        expected = np.asarray(Image.open(folder / f"{setting}-masks/marbles/{number:05d}.png"))
        assert (hard_mask(soft, size, 16) == expected).mean() >= 0.999
    check_official(
        official(folder / "DAVIS/Annotations/480p", folder / f"{setting}-masks"), answer["official_evaluation"]
    )


@pytest.mark.parametrize("setting", ["near", "default", "unmasked", "discard"])
def test_int8_costs_little_jf(golden: Path, tmp_path: Path, setting: str) -> None:
    tensors, answer, masks = read_davis(golden / "davis", setting)
    p, store = answer["params"], store_of(tmp_path / "store", tensors, "int8")
    maps = (
        store[i].descriptors("adaln+discard" if p["cd"] else "adaln", MASSIVE if p["cd"] else ()) for i in store.ids
    )
    soft = propagate(maps, first_labels(masks[0], store.grid("0")), voting_of(p))
    size = (masks[0].shape[1], masks[0].shape[0])
    inner = [evaluate_frame(mask, hard_mask(x, size, 16), 3) for mask, x in zip(masks[1:], soft, strict=True)][:-1]
    found = summarize({str(i): values for i, values in enumerate(np.stack(inner, 1))})
    assert abs(found["J&F-Mean"] - answer["official_evaluation"]["J&F-Mean"]) <= 0.003


def test_official_metrics_on_real_sequences(golden: Path, real_davis: Path) -> None:
    found = official(real_davis / "Annotations/480p", golden / "evaluation/predictions")
    check_official(found, json.loads((golden / "evaluation/expected.json").read_text()))
