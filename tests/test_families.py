"""Families as users meet them: from images to PCK under DVC, `ditf models`, `ditf plan`, the published flags."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModel

from ditf.backbones.base import Backbone
from ditf.backbones.diffusion.settings import Diffusion
from ditf.backbones.networks.vit import blocks_of
from ditf.backbones.source import Model, pin
from ditf.cli.davis import PAPER as DAVIS
from ditf.cli.published_run import ModelFlags, model_entries
from ditf.cli.spair import PAPER as SPAIR
from ditf.config.schema import FeaturesEntry
from ditf.errors import UserError
from ditf.files import Hashes
from ditf.project.plan import estimate, smallest_gpu
from ditf.registry import find_type, registered
from tests.conftest import MODELS, Project

FAMILIES = registered(Backbone)
KINDS = {  # vit is run by tests/test_keypoint_sets.py, the U-Net from pixels by tests/test_golden.py
    "sd3": {"blocks": [4, 14], "ensemble_size": 2},
    "pixart": {"blocks": [7], "ensemble_size": 1},
}


def kind_of(family: str) -> type[Backbone]:
    return find_type(Backbone, family)


@pytest.mark.slow
def test_every_kind_of_family_from_images_to_pck(project: Project) -> None:
    document, animals = project.params, project.folder / "animals"
    shutil.copytree(project.folder / "data/sample/ap-10k", animals)
    for pair in sorted((animals / "PairAnnotation/test_cross_species").iterdir())[12:]:
        pair.unlink()
    document["datasets"]["animals"] = {"type": "ap10k", "root": "animals", "pairs": "cross-species"}
    for family, settings in KINDS.items():
        document["models"][family] = {"type": family, "source": "tiny-0"}
        document["features"][family] = {"dataset": "animals", "model": family, "img_size": 160, **settings}
        descriptors = [name for name in kind_of(family).descriptors if family == "sd3" or ":" not in name]
        predict = {"block": settings["blocks"][-1], "descriptors": descriptors}  # type: ignore[index]
        document["tasks"][family] = {
            "type": "correspondence",
            "dataset": "animals",
            "features": family,
            "predict": predict,
            "score": {"alphas": [0.1]},
        }
    (project.folder / "params.yaml").write_text(yaml.safe_dump(document))
    project.stages("entries", "catalog@animals")
    for family in KINDS:
        project.stages(*(f"{stage}@{family}" for stage in ("text", "features", "predict", "score")))
    for family in KINDS:
        found = json.loads((project.folder / f"results/{family}/metrics.json").read_text())
        wanted = document["tasks"][family]["predict"]["descriptors"]
        assert list(found) == wanted
        assert all(0 < row["point@0.1"] <= 100 for row in found.values())
    with (project.folder / "results/sd3/tables/ablation.csv").open() as file:
        assert [row["descriptor"] for row in csv.DictReader(file)] == list(kind_of("sd3").descriptors)
    assert "geometry aware" in project.check("ditf", "results")
    # Other conditions and blocks come from the same cache.
    project.set("tasks.sd3.predict", {"block": 4, "descriptors": ["adaln:t"]})
    project.check("python", "-m", "stages.predict", "sd3", without=MODELS)
    project.stages("score@sd3")


def test_the_published_command_takes_every_family(project: Project) -> None:
    vit = model_entries(ModelFlags("vit", "tiny-0", None, None, None, False, 168), SPAIR)
    assert vit["features"] == {"img_size": 168, "blocks": [11]}
    assert vit["tasks"]["predict"] == {"block": 11, "descriptors": ["original"]}
    sd3 = model_entries(ModelFlags("sd3", None, 4, 300, 2, True, 640), SPAIR)
    assert sd3["models"]["source"] == "stabilityai/stable-diffusion-3.5-medium"
    assert sd3["features"] == {"img_size": 640, "timestep": 300, "ensemble_size": 2, "blocks": [4]}
    assert sd3["tasks"]["predict"]["descriptors"] == ["adaln+discard"]
    flux = model_entries(ModelFlags("flux", None, None, None, None, False, 960), DAVIS)
    assert flux["features"] == {"img_size": 960, "timestep": 90, "blocks": [24]}
    command = "ditf spair --dataset_path data/sample/SPair-71k --dit_model vit --model tiny-0 --save_path out"
    for flags, expected in (
        ("--t 3", "have no timestep"),
        ("--cd", "have no AdaLN"),
        ("--dit_model x", "is not known"),
    ):
        assert expected in project.fail(*command.split(), *flags.split())


def test_models_lists_every_family(finished: Project) -> None:
    shown = finished.check("ditf", "models", without=("torch", *MODELS))
    for family in FAMILIES:
        assert f"{family}: block" in shown
    assert "FLUX.1 [dev]" in shown


@pytest.mark.parametrize("family", FAMILIES)
def test_published_sizes_are_those_of_the_configurations(family: str) -> None:
    kind = kind_of(family)
    for source, model in kind.published.items():
        settings = kind(blocks=[0])
        with torch.device("meta"):
            if isinstance(settings, Diffusion):
                layout = settings.network().layout
                network = layout.skeleton(model.config)
                count, channels = len(layout.blocks(network)), settings.network()(network, settings).shape(0)[1]
            else:
                config = dict(model.config)
                network = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
                count, channels = len(blocks_of(network)), network.config.hidden_size
        total = sum(weight.numel() for weight in network.parameters())
        assert (count, channels, float(f"{total / 1e9:.3g}")) == (model.blocks, model.channels, model.parameters)
        sizes = kind(blocks=[model.blocks - 1]).sizes(Model(family, source, "main", ""))
        assert sizes is not None
        assert sizes.shapes[0] == settings_shape(kind(blocks=[model.blocks - 1]), network)
        with pytest.raises(UserError, match=rf"which has 0\.\.{count - 1}"):
            kind(blocks=[count]).sizes(Model(family, source, "main", ""))


def settings_shape(settings: Backbone, network: Any) -> tuple[int, int]:
    """Stride and channels of the captured block, as the network that runs has them."""
    if isinstance(settings, Diffusion):
        return settings.network()(network, settings).shape(settings.blocks[0])
    return network.config.patch_size, network.config.hidden_size


def test_costs_are_those_that_torch_counts() -> None:
    """The table was counted by torch.utils.flop_counter, on the networks of diffusers and transformers."""
    with (Path(__file__).parent / "model_costs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {source for family in FAMILIES for source in kind_of(family).published}
    for row in rows:
        backbone = kind_of(row["family"])(blocks=[int(row["block"])])
        sizes = backbone.sizes(Model(row["family"], row["source"], "main", ""))
        assert sizes is not None
        for tokens in (256, 1200, 4096):
            assert sizes.flops_of(tokens) == pytest.approx(float(row[f"flops_{tokens}"]), rel=0.03), row
        for name in ("weights", "block_weights", "activations"):
            assert getattr(sizes, name) == pytest.approx(float(row[name]), rel=0.05), row


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_a_folder_are_those_of_its_configuration(family: str) -> None:
    kind = kind_of(family)
    model = pin(family, "tiny-0", "main", Hashes(None))
    sizes = kind(blocks=[1]).sizes(model)
    assert sizes is not None
    if issubclass(kind, Diffusion):
        loaded = kind(blocks=[1]).load(model, torch.float32, "cpu")
        weights = sum(weight.numel() for weight in loaded.model.state_dict().values())
        assert sizes.weights == pytest.approx(weights, rel=0.05)
        assert sizes.text_weights > 0


def test_flops_are_counted_and_the_smallest_gpu_that_suffices() -> None:
    """Of block 28 of FLUX.1-dev: q, k, v, output and an MLP of 4 widths, and two products of each pair of tokens."""
    flux = kind_of("flux")(blocks=[28])
    sizes = flux.sizes(Model("flux", "black-forest-labs/FLUX.1-dev", "main", ""))
    assert sizes is not None
    tokens, width = 1200, 3072
    every = tokens + 512
    blocks = 28 * (24 * width**2 * every + 4 * width * every**2)
    assert sizes.flops_of(tokens) == pytest.approx(blocks, rel=0.01)
    entry = FeaturesEntry(dataset="x", model="y", img_size=640, backbone=flux)
    cost = estimate(sizes, {tokens: 1}, entry, 8, 2)
    found = {option: smallest_gpu(cost, option) for option in ("", "quantize: int8", "offload: blocks")}
    assert found == {"": "24 GB", "quantize: int8": "16 GB", "offload: blocks": "8 GB"}
    for option, measured in {
        "": 16.1,
        "quantize: int8": 10.1,
        "offload: blocks": 2.6,
    }.items():  # GiB; docs/benchmarks.md
        assert measured <= cost.memory[option] / 2**30 < measured + 1


def test_plan_of_models_that_are_not_here(project: Project) -> None:
    settings: dict[str, Any] = {"dataset": "spair", "img_size": 640}
    for name, family, source in (
        ("mine", "sd3", "someone/finetune"),
        ("dino", "vit", "facebook/dinov2-base"),
    ):
        project.set(f"models.{name}", {"type": family, "source": source})
        project.set(f"features.{name}", settings | {"model": name, "img_size": 644 if name == "dino" else 640})
    shown = project.check("ditf", "plan")
    assert (
        "mine: the sizes of someone/finetune are taken to be those of stabilityai/stable-diffusion-3.5-medium" in shown
    )
    assert "16 GB" in shown


def test_an_option_that_a_family_does_not_heed_is_reported(project: Project) -> None:
    project.set("models.dino", {"type": "vit", "source": "tiny-0", "offload": "blocks"})
    project.set("models.both", {"type": "flux", "source": "tiny-0", "gguf": "x.gguf", "quantize": "int8"})
    project.set("models.low", {"type": "flux", "source": "tiny-0", "offload": "blocks", "quantize": "nf4"})
    project.set("models.odd", {"type": "flux", "source": "tiny-0", "quantize": "int3"})
    error = project.fail("ditf", "plan")
    assert "models.dino.offload: models of type vit do not support this option. Remove it" in error
    assert "models.both.quantize: the weights of gguf are already quantized" in error
    assert "models.low.offload: quantized blocks cannot be offloaded. Remove offload or quantize" in error
    assert "models.odd.quantize" in error
