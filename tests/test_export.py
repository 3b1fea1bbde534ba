"""Results leave a project as tables and records, and come back beside the results of others."""

import csv
import getpass
import io
import json
import platform
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import markdown
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ditf.data.catalog import Catalog
from ditf.errors import UserError
from ditf.report.leaderboard import Estimate
from ditf.report.records import PLACE, ResultRecord, read_record, without_places
from ditf.report.result_tables import ResultRow, ResultTable, as_latex, as_markdown, escape_latex
from tests.conftest import ROOT, Project

TASK = "spair-flux"


@pytest.fixture(scope="module")
def exported(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the finished project."""
    folder = tmp_path_factory.mktemp("exported")
    finished.check("ditf", "export", "results", "--out", str(folder))
    return folder


def metrics_of(project: Project, task: str) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = json.loads((project.folder / "results" / task / "metrics.json").read_text())
    return metrics


def table_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_record_has_the_metrics_of_its_task_and_intervals_around_them(finished: Project, exported: Path) -> None:
    record = read_record(exported / f"{TASK}.json")
    values = {d: {m: r.value for m, r in metrics.items()} for d, metrics in record.metrics.items()}
    assert values == metrics_of(finished, TASK)
    for metric in (metric for metrics in record.metrics.values() for metric in metrics.values()):
        assert metric.low is not None and metric.high is not None
        assert metric.low <= metric.value <= metric.high
    davis = read_record(exported / "davis-flux.json")
    fraction = metrics_of(finished, "davis-flux")["adaln+discard"]["J&F"]
    assert davis.metrics["adaln+discard"]["J&F"].value == pytest.approx(100 * fraction)


def test_a_record_identifies_the_model_the_features_and_the_code(finished: Project, exported: Path) -> None:
    record = read_record(exported / f"{TASK}.json")
    features = finished.params["features"]["spair-flux"]
    pinned = json.loads((finished.folder / f"cache/entries/models/{features['model']}.json").read_text())
    run = json.loads((finished.folder / "results" / TASK / "run.json").read_text())
    assert [(model.source, model.digest) for model in record.models] == [(pinned["source"], pinned["digest"])]
    assert record.models[0].extraction["timestep"] == features["timestep"]
    assert record.features == run["store"]
    assert record.predict["discarded"] == run["discarded"]
    assert record.versions == run["versions"]
    assert re.fullmatch(r"[0-9a-f]{12}\+?", record.commit)
    pairs = len(Catalog(finished.folder / "catalogs/spair").rows("pairs"))
    assert (record.data.images, record.data.units) == (run["images"], pairs)


def test_records_contain_no_places_and_no_names_of_users_and_machines(finished: Project, exported: Path) -> None:
    secrets = {str(Path.home()), getpass.getuser(), platform.node(), str(finished.folder), str(Path.cwd())}
    for path in exported.glob("*.json"):
        text = path.read_text()
        assert not [secret for secret in secrets if re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)]
        assert "data/sample" not in text


@pytest.mark.parametrize(
    ("source", "digest", "name"),
    [
        ("/home/alice smith/models/FLUX.1-dev", "0" * 32, "FLUX.1-dev"),
        ("alice/FLUX.1-dev/", "0" * 32, "FLUX.1-dev"),
        (r"C:\Users\alice\FLUX.1-dev", "0" * 32, "FLUX.1-dev"),
        ("black-forest-labs/FLUX.1-dev", "0" * 40, "black-forest-labs/FLUX.1-dev"),
    ],
)
def test_a_local_folder_becomes_a_name_and_a_digest(
    project: Project, tmp_path: Path, source: str, digest: str, name: str
) -> None:
    path = project.folder / "results" / TASK / "run.json"
    run = json.loads(path.read_text())
    run["source"], run["extraction_config"]["model"]["digest"] = source, digest
    run["predict"]["lookup"] = "read from /home/alice/tables/lookup.csv"  # as a class of the user's own might have
    path.write_text(json.dumps(run))
    project.check("ditf", "export", "results", TASK, "--out", str(tmp_path / "out"))
    text = (tmp_path / "out" / f"{TASK}.json").read_text()
    record = ResultRecord.model_validate_json(text)
    assert (record.models[0].source, record.models[0].digest) == (name, digest)
    assert record.predict["lookup"] == "read from lookup.csv"
    assert "alice" not in text


def test_the_hardware_is_the_machine_of_the_extraction_while_the_store_is_the_same(
    project: Project, tmp_path: Path
) -> None:
    run = json.loads((project.folder / "results" / TASK / "run.json").read_text())
    recorded = project.folder / "cache/runs/features/spair-flux.json"
    machine = {"system": "Linux aarch64", "processor": "Other", "cores": 72, "gpus": ["NVIDIA H100"]}

    def exported_hardware(store: str) -> Any:
        recorded.write_text(json.dumps({"store": store, "hardware": machine}))
        project.check("ditf", "export", "results", TASK, "--out", str(tmp_path))
        return json.loads((tmp_path / f"{TASK}.json").read_text())["hardware"]

    assert exported_hardware(run["store"]) == machine | {"role": "extraction"}
    other = exported_hardware("0" * 32)
    assert other["role"] == "export"
    assert other["processor"] != "Other"
    # An extraction that computes nothing keeps the machine.
    recorded.write_text(json.dumps({"store": run["store"], "hardware": machine}))
    assert "0 of " in project.stages("features@spair-flux")
    assert json.loads(recorded.read_text())["hardware"] == machine


def test_an_extraction_records_its_machine(project: Project) -> None:
    project.set("features.photos-flux.timestep", 200)
    project.stages("entries", "text@photos-flux", "features@photos-flux")
    recorded = json.loads((project.folder / "cache/runs/features/photos-flux.json").read_text())
    assert recorded["computed"] > 0
    assert recorded["hardware"]["system"] == f"{platform.system()} {platform.machine()}"
    assert recorded["hardware"]["cores"] >= 1


def test_records_conform_to_the_published_schema(exported: Path) -> None:
    schema = ResultRecord.model_json_schema()
    for path in exported.glob("*.json"):
        jsonschema.validate(json.loads(path.read_text()), schema)


def test_an_imported_record_shows_the_same_figures_beside_the_own(finished: Project, exported: Path) -> None:
    before = (finished.folder / "dvc.lock").read_bytes()
    printed = finished.check("ditf", "results", "--import", str(exported / f"{TASK}.json"))
    lines = [line for line in printed.splitlines() if TASK in line]
    own = [line.split("this project")[1].split() for line in lines if "this project" in line]
    others = [line.split("others")[1].split() for line in lines if "others" in line]
    assert own == others
    assert len(own) == len(metrics_of(finished, TASK))
    assert printed.count("protocol pck-box") == 1  # one table for both
    assert (finished.folder / "dvc.lock").read_bytes() == before


def test_results_of_other_data_stand_in_another_table(finished: Project, exported: Path, tmp_path: Path) -> None:
    record = json.loads((exported / f"{TASK}.json").read_text())
    record["data"]["digest"], record["source"] = "0" * 32, "Theirs [2026]"
    (tmp_path / "theirs.json").write_text(json.dumps(record))
    text = finished.check("ditf", "export", "table", "--format", "json", "--import", str(tmp_path / "theirs.json"))
    origins = [{row["origin"] for row in table["rows"]} for table in json.loads(text)]
    assert {"imported"} in origins
    assert {"own", "imported"} not in origins
    printed = finished.check("ditf", "results", "--import", str(tmp_path / "theirs.json"))
    assert printed.count("protocol pck-box") == 2
    assert f"{TASK} (Theirs [2026])" in printed


def test_a_wrong_record_is_an_error_of_one_line_per_field(finished: Project, exported: Path, tmp_path: Path) -> None:
    record = json.loads((exported / f"{TASK}.json").read_text())
    record["metrics"]["adaln"]["point@0.1"]["value"] = "high"
    record["data"]["digest"] = "short"
    record["name"] = "/home/alice/task"
    record["colour"] = "red"
    del record["commit"]
    (tmp_path / "wrong.json").write_text(json.dumps(record))
    errors = finished.fail("ditf", "results", "--import", str(tmp_path / "wrong.json")).splitlines()
    for field in ("metrics.adaln.point@0.1.value", "data.digest", "name", "colour", "commit"):
        assert len([line for line in errors if f"wrong.json: {field}: " in line]) == 1
    assert len(errors) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "should be a mapping"),
        ('{"format": "ditf-result-9"}', "format: should be 'ditf-result-2'"),
        ('{"commit": NaN}', "NaN is not a number of JSON"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(
    finished: Project, tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    errors = finished.fail("ditf", "results", "--import", str(path))
    assert f"error: {path}: " in errors
    assert message in errors


def test_a_missing_file_is_an_error_that_names_it(finished: Project, tmp_path: Path) -> None:
    errors = finished.fail("ditf", "export", "table", "--import", str(tmp_path / "none.json"))
    assert errors == (
        f"error: {tmp_path / 'none.json'}: cannot be read (No such file or directory). "
        "Give a file of `ditf export results`.\n"
    )


def test_a_table_has_chosen_rows_and_metrics_in_every_format(finished: Project) -> None:
    chosen = ("ditf", "export", "table", f"{TASK}/adaln", f"{TASK}/original", "--metric", "point@0.1", "--format")
    values = {descriptor: metrics["point@0.1"] for descriptor, metrics in metrics_of(finished, TASK).items()}
    rows = table_rows(finished.check(*chosen, "csv"))
    assert {row["descriptor"]: float(row["point@0.1"]) for row in rows} == {
        name: values[name] for name in ("adaln", "original")
    }
    (table,) = json.loads(finished.check(*chosen, "json"))
    assert [row["metrics"]["point@0.1"]["rank"] for row in table["rows"]] == [1, 2]
    best, second = sorted((values["adaln"], values["original"]), reverse=True)
    latex = finished.check(*chosen, "latex")
    assert f"\\textbf{{{best:.2f}}}" in latex
    assert f"\\underline{{{second:.2f}}}" in latex
    text = finished.check(*chosen, "markdown")
    assert f"**{best:.2f}**" in text
    assert f"<u>{second:.2f}</u>" in text


def test_intervals_and_decimals_are_on_request(finished: Project, exported: Path) -> None:
    metric = read_record(exported / f"{TASK}.json").metrics["adaln"]["point@0.1"]
    assert metric.low is not None and metric.high is not None
    shown = ("ditf", "export", "table", f"{TASK}/adaln", "--metric", "point@0.1", "--decimals", "1", "--intervals")
    interval = f"[{metric.low:.1f}, {metric.high:.1f}]"
    assert f"{metric.value:.1f} {interval}" in finished.check(*shown)
    assert f"{metric.value:.1f} {{\\scriptsize {interval}}}" in finished.check(*shown, "--format", "latex")
    (row,) = table_rows(finished.check(*shown, "--format", "csv"))
    assert (row["point@0.1 low"], row["point@0.1 high"]) == (f"{metric.low:.1f}", f"{metric.high:.1f}")
    assert "[" not in finished.check(*shown[:-1])


def test_the_table_is_written_to_a_file(finished: Project, tmp_path: Path) -> None:
    out = tmp_path / "paper" / "results.tex"
    finished.check("ditf", "export", "table", "--format", "latex", "--out", str(out))
    assert out.read_text() == finished.check("ditf", "export", "table", "--format", "latex")
    assert [path.name for path in out.parent.iterdir()] == ["results.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table", "spair-flax"), "spair-flax: not a task with metrics. Did you mean spair-flux?"),
        (("table", f"{TASK}/adeln"), f"{TASK}/adeln: not a result. Did you mean {TASK}/adaln?"),
        (
            ("table", TASK, "--metric", "point@0.2"),
            "--metric point@0.2: no chosen result has this metric. Did you mean",
        ),
        (("results", "davis"), "davis: not a task with metrics. Did you mean davis-flux?"),
    ],
)
def test_a_wrong_choice_is_an_error_with_a_remedy(finished: Project, arguments: tuple[str, ...], message: str) -> None:
    assert message in finished.fail("ditf", "export", *arguments)


def test_stale_results_are_not_exported(project: Project, tmp_path: Path) -> None:
    project.set("tasks.spair-flux.score.alphas", [0.3])
    errors = project.fail("ditf", "export", "results", "--out", str(tmp_path / "out"))
    assert errors.startswith(f"error: {TASK} is stale (")
    assert errors.endswith("Run `dvc repro`.\n")
    assert not (tmp_path / "out").exists()
    project.check("ditf", "export", "results", "davis-flux", "--out", str(tmp_path / "out"))


def test_published_rows_are_marked_and_can_be_left_out(project: Project) -> None:
    official(project)
    (project.folder / "published.csv").write_text(
        "source,table,row,data,protocol,metric,value\narXiv 1234.5678,Table 1,M_1,Official test,pck-box,point@0.1,99\n"
    )
    latex = project.check("ditf", "export", "table", TASK, "--format", "latex")
    assert r"arXiv 1234.5678$^\dagger$ & M\_1 &  & \textbf{99.00}" in latex
    assert "Published results, not measured here" in latex
    without = project.check("ditf", "export", "table", TASK, "--format", "latex", "--no-published")
    assert "dagger" not in without


def test_a_record_names_its_protocol_and_its_data(project: Project, tmp_path: Path) -> None:
    project.check("ditf", "export", "results", "--out", str(tmp_path))
    records = {name: read_record(tmp_path / f"{name}.json") for name in (TASK, "davis-flux")}
    assert {name: record.protocol.name for name, record in records.items()} == {
        TASK: "pck-box",
        "davis-flux": "davis-jf",
    }
    assert "longer side of the target's bounding box" in records[TASK].protocol.rules
    assert records[TASK].data.official == ""
    official(project)
    project.check("ditf", "export", "results", TASK, "--out", str(tmp_path))
    assert read_record(tmp_path / f"{TASK}.json").data.official == "Official test"


def official(project: Project) -> None:
    """Let the sample's pairs be those of an official split."""
    path = project.folder / "results" / TASK / "tables/benchmark.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"official": "Official test"}))


# Names of models, tasks and metrics in other people's records may contain anything.
NAMES = st.text(min_size=1).map(lambda text: " ".join("".join(c for c in text if c.isprintable()).split())).filter(bool)
SPECIAL = "\\ {}[]$%&#_^~|<>*`-- --- !-"
UNESCAPED = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}
UNESCAPED |= {r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", "-{}": "-"}
UNESCAPED |= {"\\" + c: c for c in "&%$#_{}"} | {f"{{{c}}}": c for c in "[]*"}
TOKENS = re.compile("|".join(map(re.escape, UNESCAPED)))


def table_of(name: str) -> ResultTable:
    metrics = {"a": Estimate(2.0, (1.0, 3.0)), name: Estimate(1.0)}
    row = ResultRow("own", name, name, name, metrics, (name,))
    return ResultTable(name, name, list(metrics), [row], [name])


@settings(deadline=None)
@given(NAMES)
@example(SPECIAL)
def test_latex_takes_names_literally(name: str) -> None:
    escaped = escape_latex(name)
    assert TOKENS.sub(lambda token: UNESCAPED[token[0]], escaped) == name
    # Nothing that LaTeX interprets is left between the escapes.
    assert not re.search(r"[\\{}\[\]$%&#^_~*]|--", TOKENS.sub("", escaped))


@settings(deadline=None)
@given(NAMES)
@example(SPECIAL)
def test_a_latex_table_is_complete_whatever_the_names(name: str) -> None:
    table = table_of(name)
    lines = as_latex([table], 2, True).split("\n")
    code = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in lines)
    plain = re.sub(r"\\[\\{}&%$#_]", "", code)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    rows = [line for line in code.split("\n") if line.endswith(r" \\")]
    assert len(rows) == 2
    assert {len(re.findall(r"(?<!\\)&", line.replace(r"\\", ""))) for line in rows} == {len(table.metrics) + 2}
    for name in ("tabular",):
        assert code.count(f"\\begin{{{name}}}") == code.count(f"\\end{{{name}}}") == 1
    assert code.index(r"\toprule") < code.index(r"\midrule") < code.index(r"\bottomrule")


class Cells(HTMLParser):
    """Collect the texts of a table's cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@settings(deadline=None)
@given(NAMES)
@example(SPECIAL)
def test_markdown_takes_names_literally(name: str) -> None:
    html = markdown.markdown(as_markdown([table_of(name)], 2, False).partition("\n\n")[2], extensions=["tables"])
    parser = Cells()
    parser.feed(html.partition("</table>")[0])
    cells = [cell.strip() for cell in parser.cells]
    columns = 3 + len({"a", name})
    assert cells[columns : columns + 3] == [f"{name} §", name, name]


@settings(deadline=None)
@given(st.text() | st.builds("{}/{}".format, st.text(), st.text()))
@example("/home/alice/x")
@example("file:///home/alice/x, ~alice/y; C:\\Users\\alice")
def test_no_place_is_left_in_any_text(text: str) -> None:
    assert not PLACE.search(without_places(text))


def test_texts_that_are_no_places_stay() -> None:
    texts = ["adaln+discard", "a photo of a cat", "owner/name", "1/2", "", "point@0.1 of image", "~5 px"]
    assert without_places(texts) == texts


def test_bounds_come_in_pairs_and_in_order(exported: Path, tmp_path: Path) -> None:
    record = json.loads((exported / f"{TASK}.json").read_text())
    for bounds, message in (({"low": 1.0, "high": None}, "give both"), ({"low": 2.0, "high": 1.0}, "above high")):
        record["metrics"]["adaln"]["point@0.1"] |= bounds
        (tmp_path / "bounds.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=message):
            read_record(tmp_path / "bounds.json")


def test_the_leaderboard_of_the_documentation_consists_of_valid_records() -> None:
    paths = list((ROOT / "leaderboard").glob("*.json"))
    assert paths
    for path in paths:
        assert read_record(path).metrics
