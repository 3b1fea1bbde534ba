"""params.yaml: what is wrong is named, each in a line of its own."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ditf.config.params import load_params, validate
from ditf.errors import UserError
from tests.conftest import ROOT

DEFAULT = (ROOT / "params.yaml").read_text()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default parameters with one changed; `...` removes it."""
    data: dict[str, Any] = yaml.safe_load(DEFAULT)
    place: Any = data
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def test_the_default_is_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.features["spair-flux"].backbone.blocks == [28]
    assert params.tasks["davis-flux"].predict.block == 24


S, D, F, G = "datasets.spair", "datasets.davis", "features.spair-flux", "features.davis-flux"
T, U = "tasks.spair-flux", "tasks.davis-flux"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (f"{F}.timestp", 3, rf"{F}.timestp: unknown parameter"),
        (f"{T}.score.aplhas", [0.1], rf"{T}.score.aplhas: unknown parameter"),
        ("sed", 1, "sed: unknown parameter"),
        (f"{F}.img_size", ..., rf"{F}.img_size: missing"),
        (f"{F}.timestep", 1001, rf"{F}.timestep: .*less than or equal to 1000"),
        (f"{F}.timestep", -1, rf"{F}.timestep"),
        (f"{F}.timestep", "260", rf"{F}.timestep: .*valid integer"),
        (f"{F}.timestep", True, rf"{F}.timestep"),
        (f"{F}.blocks", [], rf"{F}.blocks"),
        (f"{F}.blocks", [28, 28], rf"{F}.blocks: each value may occur only once"),
        (f"{F}.ensemble_size", 0, rf"{F}.ensemble_size"),
        (f"{F}.img_size", 8, rf"{F}.img_size"),
        (f"{F}.encoding", "float8", rf"{F}.encoding"),
        (f"{F}.rule", "wide", rf"{F}.rule: .*'wide'"),
        (f"{F}.seed", -1, rf"{F}.seed"),
        (f"{F}.model", "sd3", rf"{F}.model: 'sd3' is not an entry of models. Use tiny-flux"),
        (f"{F}.dataset", "coco", rf"{F}.dataset: 'coco' is not an entry of datasets"),
        (f"{S}.split", "all", rf"{S}.split"),
        (f"{S}.root", None, rf"{S}.root: .*valid string"),
        (f"{S}.root", "", rf"{S}.root"),
        (
            f"{S}.type",
            "coco",
            rf"{S}.type: 'coco' is not known. Use ade20k, ap10k, davis, ",
        ),
        (f"{S}.type", ..., rf"{S}.type: missing"),
        (f"{S}.type", "no.such.Thing", rf"{S}.type: 'no.such.Thing' cannot be imported"),
        (f"{S}.type", "ditf.data.images.RGB", rf"{S}.type: .*has no RGB that is a Dataset"),
        (f"{D}.year", 2015, rf"{D}.year"),
        (f"{D}.split", "../val", rf"{D}.split"),
        (f"{T}.score.alphas", [0], rf"{T}.score.alphas.0"),
        (f"{T}.score.alphas", [float("nan")], rf"{T}.score.alphas.0"),
        (
            f"{T}.predict.block",
            3,
            r"3 is not captured by features.spair-flux \(blocks: \[28\]\). Add 3 to its blocks, or choose 28\.",
        ),
        (f"{T}.predict.descriptors", ["adaIn"], rf"{T}.predict.descriptors.0"),
        (f"{T}.predict.channels", "all", rf"{T}.predict.channels"),
        (f"{T}.predict.channels", [-1], rf"{T}.predict.channels"),
        (f"{F}.dataset", [], rf"{F}.dataset: should be a valid string, not \[\]"),
        (
            f"{T}.features",
            "none",
            rf"{T}.features: 'none' is not an entry of features or fusions. Use spair-flux, davis-flux, photos-flux",
        ),
        (f"{U}.predict.temperature", 0.0, rf"{U}.predict.temperature"),
        (f"{U}.predict.temperature", float("inf"), rf"{U}.predict.temperature"),
        (f"{U}.predict.topk", 0, rf"{U}.predict.topk"),
        ("tasks.photos-search.predict.descriptors", ["original", "adaln"], "an index is of one descriptor"),
        ("models.tiny-flux.device", "tpu", "models.tiny-flux.device"),
        ("models.tiny-flux.batch_size", 0, "models.tiny-flux.batch_size"),
        ("models.tiny-flux.source", "", "models.tiny-flux.source"),
        ("models.tiny-flux.type", "flax", "models.tiny-flux.type: 'flax' is not known. Did you mean flux?"),
        ("sample.seed", -1, "sample.seed"),
        ("workers", "udp://x", "workers: use none, a number of workers"),
        ("workers", 0, "workers: use none"),
        (S, None, rf"{S}: should be a mapping of settings, not None"),
        ("models", None, "models: not a mapping of entries. Write {} for none"),
        ("datasets", {"a b": {}}, "datasets.a b: a name consists of letters"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(path: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        validate(changed(path, value))
    lines = str(caught.value).split("\n")
    assert all(line.startswith("params.yaml: ") for line in lines)
    assert not any(word in str(caught.value) for word in ("Traceback", "literal[", "constrained"))


def test_one_wrong_entry_is_not_reported_of_those_that_name_it() -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(f"{S}.split", "all"))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("text", [b"a: [", b"", b"- 1", b"\xff\xfe", b"\x00"])
def test_what_is_not_a_parameter_file_is_reported(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load_params(path)
    with pytest.raises(UserError, match="not found"):
        load_params(tmp_path / "none.yaml")


def test_a_key_that_occurs_twice_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(DEFAULT.replace("    timestep: 260\n", "    timestep: 260\n    timestep: 200\n", 1))
    with pytest.raises(UserError, match="'timestep' occurs twice"):
        load_params(path)


def test_a_descriptor_that_a_model_has_not_is_reported() -> None:
    document = yaml.safe_load(DEFAULT)
    document["models"]["dino"] = {"type": "vit", "source": "tiny-0"}
    document["features"]["spair-flux"] = {"dataset": "spair", "model": "dino", "img_size": 168, "blocks": [28]}
    with pytest.raises(UserError, match=r"adaln is not a descriptor of features\.spair-flux. Use original\."):
        validate(document)


def test_a_task_has_not_the_name_of_another_folder_of_results() -> None:
    document = yaml.safe_load(DEFAULT)
    document["tasks"]["sweeps"] = document["tasks"]["spair-flux"]
    with pytest.raises(UserError, match=r"tasks\.sweeps: sweeps is a folder of other results"):
        validate(document)


SWEEP: dict[str, Any] = {
    **{"dataset": "spair", "model": "tiny-flux", "img_size": 160, "timesteps": [100, 260], "blocks": [4, 28]},
    **{"ensemble_sizes": [1, 2], "subset": 2, "task": {"type": "correspondence"}},
}


def test_a_sweep_holds_features_of_each_timestep_with_the_largest_ensemble() -> None:
    sweep = validate(changed("sweeps", {"flux": SWEEP})).sweeps["flux"]
    assert {t: f.backbone.ensemble_size for t, f in sweep.features.items()} == {100: 2, 260: 2}
    assert sweep.settings.subset == 2 and sweep.task.predict.block == 4


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("dataset", "none", "'none' is not an entry of datasets"),
        ("timesteps", 100, r"timesteps: give a list"),
        ("timesteps", [100, 100], r"timesteps: give a list of distinct"),
        ("timesteps", [[100]], r"timestep"),
        ("timesteps", [2000], r"timestep"),
        ("ensemble_sizes", [0], r"ensemble_sizes\.0"),
        ("ensemble_size", 8, r"a sweep has `ensemble_sizes`"),
        ("subset", 0, r"subset"),
        ("features", {}, r"features: unknown parameter"),
        ("task", None, r"task: missing"),
        ("task.type", "sorting", r"'sorting' is not known"),
        ("task.block", 3, r"task\.block: unknown parameter"),
        ("task.predict", 5, r"task\.predict: should be a mapping of settings"),
        ("task.predict", {"block": 4}, r"task\.predict\.block: the sweep chooses it"),
        ("task.features", "spair-flux", r"task\.features: the sweep chooses it"),
        ("task.predict", {"descriptors": ["fused"]}, r"task\.predict\.descriptors"),
    ],
)
def test_what_is_wrong_in_a_sweep_is_named(path: str, value: Any, expected: str) -> None:
    entry = SWEEP | {"task": dict(SWEEP["task"])}
    *parents, last = path.split(".")
    (entry[parents[0]] if parents else entry)[last] = value
    with pytest.raises(UserError, match=expected) as caught:
        validate(changed("sweeps", {"flux": entry}))
    assert all(line.startswith("params.yaml: sweeps.flux") for line in str(caught.value).split("\n"))
