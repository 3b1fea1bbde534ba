"""params.yaml: what is wrong is named, each in a line of its own."""

from pathlib import Path
from typing import Any

import pytest

from ditf.config.params import load_params, validate
from ditf.config.yaml_file import parse_yaml
from ditf.errors import UserError
from tests.conftest import ROOT

DEFAULT = (ROOT / "params.yaml").read_text()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default parameters with one changed; `...` removes it."""
    data: dict[str, Any] = parse_yaml(DEFAULT, "params.yaml")
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
    assert params.features["spair-flux"].backbone.blocks == [7]
    assert params.tasks["davis-flux"].predict.block == 7


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
        (f"{F}.blocks", [7, 7], rf"{F}.blocks: each value may occur only once"),
        (f"{F}.ensemble_size", 0, rf"{F}.ensemble_size"),
        (f"{F}.img_size", 8, rf"{F}.img_size"),
        (f"{F}.encoding", "float8", rf"{F}.encoding"),
        (f"{F}.rule", "wide", rf"{F}.rule: .*'wide'"),
        (f"{F}.seed", -1, rf"{F}.seed"),
        (f"{F}.model", "sd3", rf"{F}.model: 'sd3' is not an entry of models. Use miniature"),
        (f"{F}.dataset", "coco", rf"{F}.dataset: 'coco' is not an entry of datasets"),
        (f"{S}.split", "all", rf"{S}.split"),
        (f"{S}.root", None, rf"{S}.root: .*valid string"),
        (f"{S}.root", "", rf"{S}.root"),
        (
            f"{S}.type",
            "coco",
            rf"{S}.type: 'coco' is not known. Use ade20k, ap10k, cityscapes, ",
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
            r"3 is not captured by features.spair-flux \(blocks: \[7\]\). Add 3 to its blocks, or choose 7\.",
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
        ("tasks.photos-search.predict.descriptors", ["original", "adaln"], "an index has one descriptor"),
        ("models.miniature.device", "tpu", "models.miniature.device"),
        ("models.miniature.batch_size", 0, "models.miniature.batch_size"),
        ("models.miniature.source", "", "models.miniature.source"),
        ("models.miniature.type", "flax", "models.miniature.type: 'flax' is not known. Did you mean flux?"),
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


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (f"{S}.split", "all", f"{S}.split: should be 'trn', 'val' or 'test', not 'all'"),
        ("models.miniature.type", "fluxx", "models.miniature.type: 'fluxx' is not known. Did you mean flux?"),
        (f"{F}.dataset", "spiar", f"{F}.dataset: 'spiar' is not an entry of datasets. Did you mean spair?"),
        (f"{T}.features", "spair-flx", f"{T}.features: 'spair-flx' is not an entry of features or fusions. Did you"),
        (f"{T}.type", "corespondence", f"{T}.type: 'corespondence' is not known. Did you mean correspondence?"),
        (f"{F}.nois", "shared", f"{F}.nois: unknown parameter. Did you mean noise?"),
        (f"{T}.predict.chanels", "auto", f"{T}.predict.chanels: unknown parameter. Use matcher."),
        (f"{T}.predict.matcher", "neerest", f"{T}.predict.matcher.type: 'neerest' is not known. Did you mean nearest?"),
        ("models", {}, f"{F}.model: 'miniature' is not an entry of models. There is none."),
        ("models", ..., "models: missing. Add it."),
        ("models", [], "models: not a mapping of entries"),
        ("sweps", {}, "sweps: unknown parameter. Remove it."),
    ],
    ids=str,
)
def test_only_the_cause_is_reported_with_the_nearest_name(path: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(path, value))
    lines = str(caught.value).split("\n")
    assert len([line for line in lines if not line.startswith(f"params.yaml: {expected[:9]}")]) == 0
    assert lines[0].startswith(f"params.yaml: {expected}")
    assert len(lines) == (3 if value == {} and path == "models" else 1)


def test_a_misspelt_parameter_that_must_be_there_is_reported_once() -> None:
    data = changed(f"{F}.img_size", ...)
    data["features"]["spair-flux"]["img_sze"] = 256
    with pytest.raises(UserError) as caught:
        validate(data)
    assert str(caught.value) == f"params.yaml: {F}.img_sze: unknown parameter. Did you mean img_size?"


def test_all_wrong_fields_are_reported_at_once() -> None:
    data = changed("workers", 0)
    data["sample"]["seed"] = -1
    data["datasets"]["davis"]["year"] = 2015
    data["features"]["spair-flux"] |= {"img_size": "x", "timestep": 2000, "rule": "wide"}
    data["tasks"]["photos-search"]["predict"]["block"] = 3
    data["more"] = 1
    with pytest.raises(UserError) as caught:
        validate(data)
    fields = [line.split(": ")[1] for line in str(caught.value).split("\n")]
    features = [f"{F}.{name}" for name in ("img_size", "rule", "timestep")]
    assert sorted(fields) == sorted(
        ["workers", "sample.seed", f"{D}.year", *features, "tasks.photos-search.predict.block", "more"]
    )


def test_sections_may_be_left_out() -> None:
    data = changed("fusions", ...)
    del data["sweeps"]
    params = validate(data)
    assert (params.fusions, params.sweeps) == ({}, {})


def test_names_that_look_like_numbers_are_quoted() -> None:
    data = changed("sample.seed", 0)
    data["datasets"]["010"] = data["datasets"]["spair"]
    assert "010" in validate(data).datasets
    data["datasets"][2024] = data["datasets"]["spair"]
    with pytest.raises(
        UserError, match=r"datasets\.2024: a name that looks like a number needs quotes. Write '2024'\."
    ):
        validate(data)


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
    document = parse_yaml(DEFAULT, "params.yaml")
    document["models"]["dino"] = {"type": "vit", "source": "tiny-0"}
    document["features"]["spair-flux"] = {"dataset": "spair", "model": "dino", "img_size": 168, "blocks": [7]}
    with pytest.raises(UserError, match=r"adaln is not a descriptor of features\.spair-flux. Use original\."):
        validate(document)


def test_a_task_has_not_the_name_of_another_folder_of_results() -> None:
    document = parse_yaml(DEFAULT, "params.yaml")
    document["tasks"]["sweeps"] = document["tasks"]["spair-flux"]
    with pytest.raises(UserError, match=r"tasks\.sweeps: sweeps is a folder of other results"):
        validate(document)


SWEEP: dict[str, Any] = {
    **{"dataset": "spair", "model": "miniature", "img_size": 160, "timesteps": [100, 260], "blocks": [4, 7]},
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
