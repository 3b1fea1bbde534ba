"""Readers of what users bring, fed with anything: a result or one line, never another exception, never a hang."""

import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ditf.config.params import load_params
from ditf.data.images import read_rgb
from ditf.data.masks import read_index_mask
from ditf.errors import UserError
from tests.conftest import ROOT
from tests.test_datasets import PAIR, read_folder, read_spair, small_spair  # noqa: F401

fuzz = settings(
    max_examples=50,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def check_report(error: UserError) -> None:
    assert str(error)
    assert "Traceback" not in str(error)


@fuzz
@given(data=st.data())
def test_annotations(small_spair: Path, data: st.DataObject) -> None:  # noqa: F811
    path = small_spair / "PairAnnotation/test" / f"{PAIR}.json"
    whole = path.read_bytes()
    record: dict[str, Any] = json.loads(whole)
    try:
        if data.draw(st.booleans()):
            for name in data.draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=3)):
                record[name] = data.draw(JSON)
            path.write_text(json.dumps(record))
        else:
            at, part = data.draw(st.integers(0, len(whole))), data.draw(st.binary(max_size=6))
            path.write_bytes(whole[:at] + part + whole[at + len(part) :][: data.draw(st.integers(0, 500))])
        try:
            read_spair(small_spair)
        except UserError as error:
            check_report(error)
    finally:
        path.write_bytes(whole)


@fuzz
@given(data=st.data())
def test_parameters(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "params.yaml"
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    if data.draw(st.booleans()):
        place, depth = document, data.draw(st.integers(0, 3))
        key = data.draw(st.sampled_from(sorted(place)))
        while depth and isinstance(place[key], dict) and place[key]:
            place, depth = place[key], depth - 1
            key = data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5))
            place.setdefault(key, None)
        place[key] = data.draw(JSON)
        path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    else:
        path.write_bytes(data.draw(st.binary(max_size=60)))
    try:
        load_params(path)
    except UserError as error:
        check_report(error)


def pictures() -> dict[str, bytes]:
    """A small file of each kind, to be broken."""
    files = {}
    for kind, mode in (("png", "P"), ("png", "RGB"), ("jpeg", "RGB"), ("webp", "RGB"), ("tiff", "L"), ("bmp", "1")):
        with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
            Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).convert(mode).save(file.name, kind)
            files[f"{kind} {mode}"] = Path(file.name).read_bytes()
    return files


PICTURES = pictures()


@pytest.mark.parametrize("read", [read_rgb, read_index_mask])
@pytest.mark.parametrize("kind", PICTURES)
@fuzz
@given(data=st.data())
def test_images_and_masks(tmp_path: Path, read: Any, kind: str, data: st.DataObject) -> None:
    content = bytearray(PICTURES[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "picture.png"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read(path).dtype == np.uint8
    except UserError as error:
        check_report(error)


@fuzz
@given(content=st.binary(max_size=80) | st.text(max_size=60).map(lambda text: f"path,prompt\n{text}".encode()))
def test_lists_of_prompts(tmp_path: Path, content: bytes) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(content)
    try:
        read_folder(tmp_path, "list.csv")
    except UserError as error:
        check_report(error)
