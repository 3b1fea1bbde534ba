"""Equality with the published programs, on the answers that they computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import direct
from pipeline.backbones.flux import FluxTransformer, Text
from pipeline.correspondence import predict
from pipeline.datasets import davis, spair
from pipeline.descriptors import Descriptor, channel_statistics, describe
from pipeline.images import read_index_mask
from pipeline.pck import pck
from pipeline.propagation import Settings, first_labels, hard_mask, propagate
from pipeline.segmentation import evaluate_frame, summarize
from pipeline.store import Encoding, Features, FeatureStore, Item
from pipeline.writer import StoreWriter

MASSIVE = (154, 1446)


@pytest.mark.parametrize("blocks", [[19], [24], [28], [19, 24, 28]], ids=str)
def test_flux_features_and_modulation(golden: Path, blocks: list[int]) -> None:
    folder = golden / "flux"
    case, settings = load_file(folder / "case.safetensors"), json.loads((folder / "case.json").read_text())
    h, w = settings["grid"]
    latents = case["latents"].reshape(-1, h, w, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * h, 2 * w)
    text = Text(case["prompt_embeds"][0], case["pooled_prompt_embeds"][0])
    flux = FluxTransformer.load(folder / "transformer", blocks, torch.float32, "cpu")

    features = flux.capture(latents, text, settings["timestep"], settings["guidance"])
    modulation = flux.modulation(text, settings["timestep"], settings["guidance"])

    for block in blocks:
        torch.testing.assert_close(features[block], case[f"block{block}.feature"], rtol=1e-5, atol=1e-5)
        for row, name in enumerate(("shift", "scale", "gate")):
            torch.testing.assert_close(modulation[block][row], case[f"block{block}.{name}"][0], rtol=1e-5, atol=1e-6)
    read = [n for n in flux.tensors_read if n.startswith("single_transformer_blocks.")]
    assert max(int(n.split(".")[1]) for n in read) == blocks[-1] - 19
    assert [n for n in read if int(n.split(".")[1]) == blocks[-1] - 19 and ".norm.linear." not in n] == []


def make_spair(golden: Path, folder: Path, encoding: Encoding) -> tuple[FeatureStore, dict[str, Any]]:
    """The golden features in a store, and the catalog of their images."""
    root = golden / "spair" / "SPair-mini"
    tables = spair.read(root, "test", "a photo of a {category}", "captions.json")
    tensors = load_file(golden / "spair" / "features.safetensors")
    features = {row["id"]: tensors[f"{row['id']}.jpg.feature"][0].float() for row in tables["images"]}
    items = [Item(name, name, (x.shape[1], x.shape[2])) for name, x in features.items()]
    writer = StoreWriter(folder, items, [28], {}, encoding)
    for index, item in enumerate(items):
        modulation = tensors[f"{item.id}.jpg.modulation"][0].float().numpy()
        writer.write(index, {28: Features(features[item.id].flatten(1).T.numpy(), modulation)})
    return FeatureStore(writer.finish()), tables


@pytest.fixture(scope="session")
def spair_store(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, dict[str, Any]]:
    return make_spair(golden, tmp_path_factory.mktemp("spair"), "float16")


@pytest.mark.parametrize(("answer", "descriptor"), [("keep", "adaln"), ("discard", "adaln+discard")])
def test_spair_pixels_and_pck(
    golden: Path, spair_store: tuple[FeatureStore, dict[str, Any]], answer: str, descriptor: Descriptor
) -> None:
    store, tables = spair_store
    expected = json.loads((golden / "spair" / f"expected_{answer}.json").read_text())
    found = predict(store, tables, 28, descriptor, MASSIVE)

    rows = {(r["pair"], r["source_x"], r["source_y"]): r for r in found.to_pylist()}
    assert len(rows) == len(expected["predictions"])
    pairs = {pair["pair"]: pair for pair in tables["pairs"]}
    sizes = {row["id"]: (row["width"], row["height"]) for row in tables["images"]}
    identical = 0
    for answered in expected["predictions"]:
        row, pair = rows[(answered["pair"], *answered["src"])], pairs[answered["pair"]]
        if [row["predicted_x"], row["predicted_y"]] == answered["pred"]:
            identical += 1
            continue
        one, other = (
            torch.from_numpy(store.descriptors(28, pair[side], descriptor, MASSIVE).T.copy()).unflatten(
                1, store.grid(pair[side])
            )
            for side in ("source", "target")
        )
        theirs = direct.similarity_at(
            one, other, [sizes[pair["source"]], sizes[pair["target"]]], answered["src"], answered["pred"]
        )
        assert abs(row["similarity"] - theirs) < 1e-6
    assert identical >= 0.95 * len(rows)

    scores = {row["value"]: row for row in pck(found, [0.1]) if row["group"] == "category"}
    for kind in ("image", "point"):
        assert {name: round(scores[name][kind], 2) for name in scores} == expected["metrics"][kind]


@pytest.mark.parametrize("descriptor", ["adaln", "adaln+discard"])
def test_int8_costs_little_pck(
    golden: Path, spair_store: tuple[FeatureStore, dict[str, Any]], tmp_path: Path, descriptor: Descriptor
) -> None:
    store, tables = make_spair(golden, tmp_path, "int8")
    found = [pck(predict(s, tables, 28, descriptor, MASSIVE), [0.1]) for s in (store, spair_store[0])]
    for row, wanted in zip(*found, strict=True):
        if row["value"] in ("All", "Mean"):
            assert abs(row["point"] - wanted["point"]) <= 0.3
            assert abs(row["image"] - wanted["image"]) <= 0.3


def test_massive_channels_are_found(spair_store: tuple[FeatureStore, dict[str, Any]]) -> None:
    store, _ = spair_store
    statistics = channel_statistics(store.features(28, item).tokens for item in store.ids)
    assert statistics.massive == list(MASSIVE)


def official(truth: Path, predictions: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """J and F over the inner frames of every object, of masks on disk."""
    objects: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for sequence in sorted(path.name for path in predictions.iterdir()):
        names = sorted(path.name for path in (truth / sequence).iterdir())
        masks = [read_index_mask(truth / sequence / name) for name in names]
        count = int(masks[0].max())
        inner = [
            evaluate_frame(mask, read_index_mask(predictions / sequence / name), count)
            for mask, name in zip(masks[1:-1], names[1:-1], strict=True)
        ]
        objects |= {f"{sequence}_{i + 1}": values for i, values in enumerate(np.stack(inner, 1))}
    return objects


def check_official(found: dict[str, np.ndarray[Any, np.dtype[np.float64]]], expected: dict[str, Any]) -> None:
    for name, value in summarize(found).items():
        assert abs(value - expected[name]) < 1e-6, name
    for column, measure in enumerate("JF"):
        for name, value in expected[f"{measure}_per_object"].items():
            assert abs(found[name][:, column].mean() - value) < 1e-6, name


@pytest.mark.parametrize("setting", ["near", "default", "unmasked", "discard"])
def test_int8_costs_little_jf(golden: Path, tmp_path: Path, setting: str) -> None:
    folder = golden / "davis"
    tensors, answer = load_file(folder / f"{setting}.safetensors"), json.loads((folder / f"{setting}.json").read_text())
    p, truth = answer["params"], folder / "DAVIS/Annotations/480p/marbles"
    masks = [read_index_mask(path) for path in sorted(truth.iterdir())]
    features = tensors["feature"].float()
    modulation = tensors["modulation"][0].float().numpy()
    items = [Item(str(i), str(i), (features.shape[2], features.shape[3])) for i in range(len(features))]
    writer = StoreWriter(tmp_path, items, [24], {}, "int8")
    for index, x in enumerate(features):
        writer.write(index, {24: Features(x.flatten(1).T.numpy(), modulation)})
    store = FeatureStore(writer.finish())
    maps = (store.descriptors(24, i.id, "adaln+discard" if p["cd"] else "adaln", MASSIVE) for i in items)
    s = Settings(p["topk"], p["temperature"], p["n_last_frames"], p["size_mask_neighborhood"])
    soft = propagate(maps, first_labels(masks[0], items[0].grid), s)
    size = (masks[0].shape[1], masks[0].shape[0])
    inner = [evaluate_frame(mask, hard_mask(x, size), 3) for mask, x in zip(masks[1:], soft, strict=True)][:-1]
    found = summarize({str(i): values for i, values in enumerate(np.stack(inner, 1))})
    assert abs(found["J&F-Mean"] - answer["official_evaluation"]["J&F-Mean"]) <= 0.003


@pytest.mark.parametrize("setting", ["near", "default", "unmasked", "discard"])
def test_davis_soft_masks_pngs_and_figures(golden: Path, setting: str) -> None:
    folder = golden / "davis"
    tensors, answer = load_file(folder / f"{setting}.safetensors"), json.loads((folder / f"{setting}.json").read_text())
    p = answer["params"]
    first = davis.read_mask(folder / "DAVIS/Annotations/480p/marbles/00000.png", 2017)
    frames, _, h, w = tensors["feature"].shape
    labels = first_labels(first, (h, w))
    np.testing.assert_array_equal(labels, tensors["first_mask"][0].numpy())

    descriptor: Descriptor = "adaln+discard" if p["cd"] else "adaln"
    modulation = tensors["modulation"][0].float().numpy()
    maps = (describe(x.float().flatten(1).T.numpy(), modulation, descriptor, MASSIVE) for x in tensors["feature"])
    settings = Settings(p["topk"], p["temperature"], p["n_last_frames"], p["size_mask_neighborhood"])
    found = list(propagate(maps, labels, settings))

    assert len(found) == frames - 1
    np.testing.assert_allclose(np.stack(found), tensors["soft_masks"].numpy(), atol=1e-4, rtol=0)
    size = (first.shape[1], first.shape[0])
    for number, soft in enumerate(found, 1):
        expected = np.asarray(Image.open(folder / f"{setting}-masks/marbles/{number:05d}.png"))
        assert (hard_mask(soft, size) == expected).mean() >= 0.999
    masks = official(folder / "DAVIS/Annotations/480p", folder / f"{setting}-masks")
    check_official(masks, answer["official_evaluation"])


def test_official_figures_on_real_sequences(golden: Path, real_davis: Path) -> None:
    found = official(real_davis / "Annotations/480p", golden / "evaluation/predictions")
    check_official(found, json.loads((golden / "evaluation/expected.json").read_text()))
