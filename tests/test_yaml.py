"""params.yaml and the examples of the documentation: read as DVC reads them, before and after it rewrites them."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from ruamel.yaml import YAML

from ditf.config.params import load_params
from ditf.config.yaml_file import dump_yaml, fragile_spellings, parse_yaml, read_yaml, set_entries
from ditf.errors import UserError
from tests.conftest import ROOT

# The reader written in Python and, where it is installed, the one in C, which refuses more.
READERS = [True, False] if find_spec("_ruamel_yaml") else [True]
PAGES = [ROOT / "params.yaml", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_bytes().decode()
        blocks = [text] if page.suffix == ".yaml" else re.findall(r"^```yaml[^\n]*\n(.*?)^```", text, re.M | re.S)
        found += [pytest.param(b, id=f"{page.relative_to(ROOT)}-{n}") for n, b in enumerate(blocks)]
    return found


@pytest.mark.parametrize("text", examples())
def test_examples_are_read_by_all_readers_before_and_after_dvc_rewrites_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    values = read_yaml(path)
    check(path, values)
    apply_overrides(path, ["+added=1"])  # as `dvc exp run -S` does
    check(path, values | {"added": 1})


def check(path: Path, expected: Any) -> None:
    """Check that every reader finds the expected values in a file."""
    assert load_yaml(str(path)) == expected == read_yaml(path)
    for pure in READERS:
        assert YAML(typ="safe", pure=pure).load(path.read_text()) == expected


VALUES = ["tiny:0", "my.module:Class", "http://x/y", "C:\\x", "1:30", "what?", "?x", ":x", "a: b"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("text", ["m: {{a: '{}'}}", "m: {{'{}': 1}}", "m: {{a: ['{}']}}", "m: {{a: {{b: '{}'}}}}"])
def test_fragile_spellings_are_reported(value: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("x: 1\n" + text.format(value))
    (line,) = fragile_spellings(path)
    assert re.search(r"params\.yaml: line 2: .* [Ww]rite ", line)
    assert read_yaml(path)["x"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m: {a: tiny:0}", r"Write tiny-0\."),
        ("m: {a: my.module:Class}", r"Write my\.module\.Class"),
        ("m: [http://x/y]", "Write each key on its own line"),
        ("m: [what?]", "Write each key on its own line"),
    ],
)
def test_unquoted_fragile_spellings_are_reported(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    (line,) = fragile_spellings(path)
    assert re.search(f"line 1: .* {expected}", line)


@pytest.mark.parametrize("value", [*VALUES, "010", "1e-3", "true", "null", "2020-01-01", "", " a ", "a #b", "é", "%x"])
@pytest.mark.parametrize("text", ["m:\n  a: {}\nz: 1\n", "m: [{}]\nz: 1\n", "m:\n- {}\nz: 1\n", "m:\n  {}: 1\nz: 1\n"])
def test_other_spellings_survive_a_rewrite(value: str, text: str, tmp_path: Path) -> None:
    quoted = "'" + value.replace("'", "''") + "'"
    path = tmp_path / "params.yaml"
    path.write_text(text.format(quoted))
    assert not fragile_spellings(path)
    values = read_yaml(path)
    apply_overrides(path, ["z=2"])
    check(path, values | {"z": 2})


def test_numbers_are_those_of_yaml_1_2() -> None:
    values = parse_yaml("[1e-3, 1e-05, 010, 0o17, 1_000, yes, 1.5]", "x")
    assert values == [0.001, 0.00001, 10, 15, 1000, "yes", 1.5]


def test_a_number_with_an_exponent_is_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    task = "{type: segmentation, dataset: spair, features: spair-flux, predict: {block: 7, rate: 1e-3}}"
    path.write_text(f"{(ROOT / 'params.yaml').read_text()}  ade: {task}\n")
    assert load_params(path).tasks["ade"].model_dump()["predict"]["rate"] == 0.001
    apply_overrides(path, ["tasks.ade.predict.rate=0.00001"])
    assert "1e-05" in path.read_text()
    assert load_params(path).tasks["ade"].model_dump()["predict"]["rate"] == 0.00001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' occurs twice"),
        ("a: [", "line 1: not valid YAML"),
        ("a: b: c", "line 1: not valid YAML: mapping values are not allowed here"),
        ("a: *b", "line 1: not valid YAML: found undefined alias"),
    ],
)
def test_wrong_yaml_is_reported_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"^x.yaml: {expected}") as caught:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(caught.value)


DOCUMENT = """\
# All of it.
models:
  # The first.
  one:  # small
    type: flux
    source: "tiny-0"   # quoted

# Data sets.
datasets: {}  # none

tasks:
    two: {a: [1, 2]}  # four spaces
    three:
        text: |
            a
            b
# The end.
"""


def test_an_entry_is_added_and_all_other_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(DOCUMENT)
    entry = {"source": "/a:b/what?", "blocks": [1, 2], "predict": {"names": ["x:y"], "empty": {}}}
    set_entries(path, {section: {"new-1": entry} for section in ("models", "datasets", "tasks", "features")})
    values = read_yaml(path)
    assert all(values[section]["new-1"] == entry for section in ("models", "datasets", "tasks", "features"))
    lines, before = path.read_text().splitlines(), [line for line in DOCUMENT.splitlines() if line]
    before.remove("datasets: {}  # none")
    assert [line for line in lines if line in before] == before
    assert "datasets:  # none" in lines
    assert lines.index("# Data sets.") > lines.index("  new-1:")


def test_an_entry_is_replaced_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(DOCUMENT)
    set_entries(path, {"models": {"one": {"type": "vit"}}, "tasks": {"two": {"b": 1}, "three": {"c": None}}})
    values = read_yaml(path)
    assert values["models"] == {"one": {"type": "vit"}}
    assert values["tasks"] == {"two": {"b": 1}, "three": {"c": None}}
    for comment in ("# All of it.", "  # The first.", "# Data sets.", "# The end."):
        assert comment in path.read_text().splitlines()


def test_written_values_are_read_again() -> None:
    values = {"a": {"b": [1, "x:y"], "c": ["010", 1e-5], "d": None, "e": True, "f": "é: # x", "g": [[1], {"h": 2}]}}
    assert parse_yaml(dump_yaml(values), "x") == values
