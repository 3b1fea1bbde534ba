"""params.yaml: what is wrong is named in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline.errors import UserError
from pipeline.params import load_params

DEFAULT = Path(__file__).parents[1] / "params.yaml"


def change(tmp_path: Path, *keys: str, value: Any) -> Path:
    data = yaml.safe_load(DEFAULT.read_text())
    place = data
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_default_is_valid_and_has_the_papers_settings() -> None:
    params = load_params(DEFAULT)
    assert (params.spair.timestep, params.spair.block, params.spair.ensemble_size) == (260, 28, 8)
    assert (params.davis.timestep, params.davis.block, params.davis.ensemble_size) == (90, 24, 8)
    assert (params.davis.topk, params.davis.n_last_frames, params.davis.size_mask_neighborhood) == (5, 7, 12)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("spair", "alpha"), 0.1, "spair.alpha: unknown parameter"),
        (("extra",), 1, "extra: unknown parameter"),
        (("spair", "timestep"), ..., "spair.timestep: missing"),
        (("spair", "timestep"), 1001, "spair.timestep: .*less than or equal to 1000"),
        (("spair", "timestep"), -1, "spair.timestep"),
        (("spair", "timestep"), "260", "spair.timestep: .*valid integer"),
        (("spair", "timestep"), True, "spair.timestep"),
        (("spair", "blocks"), [57], "spair.blocks.0"),
        (("spair", "blocks"), [], "spair.blocks"),
        (("spair", "blocks"), [28, 28], "spair.blocks: each value may stand only once"),
        (("spair", "block"), 3, "spair: block 3 is not among blocks"),
        (("spair", "ensemble_size"), 0, "spair.ensemble_size"),
        (("spair", "img_size"), 8, "spair.img_size"),
        (("davis", "img_size"), 479, "davis.img_size: .*multiple of 16"),
        (("spair", "split"), "all", "spair.split"),
        (("spair", "alphas"), [0], "spair.alphas.0"),
        (("spair", "alphas"), [float("nan")], "spair.alphas.0"),
        (("spair", "descriptors"), ["adaIn"], "spair.descriptors.0"),
        (("spair", "channels"), "all", "spair.channels"),
        (("spair", "channels"), [-1], "spair.channels"),
        (("davis", "temperature"), 0.0, "davis.temperature"),
        (("davis", "temperature"), float("inf"), "davis.temperature"),
        (("davis", "topk"), 0, "davis.topk"),
        (("davis", "year"), 2015, "davis.year"),
        (("davis", "split"), "../val", "davis.split"),
        (("model", "device"), "tpu", "model.device"),
        (("model", "batch_size"), 0, "model.batch_size"),
        (("model", "source"), "", "model.source"),
        (("seed",), -1, "seed"),
        (("spair",), None, "spair: "),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tmp_path: Path, keys: tuple[str, ...], value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        load_params(change(tmp_path, *keys, value=value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"a: [", b"", b"- 1", b"\xff\xfe", b"\x00"])
def test_what_is_no_parameter_file_is_told(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load_params(path)
    with pytest.raises(UserError, match="not found"):
        load_params(tmp_path / "none.yaml")
