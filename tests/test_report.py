"""The report as one opens it: in a browser where there is one, and as a file; and comparisons of two results."""

import base64
import html
import io
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ditf.config.params import load_params
from ditf.data.catalog import Catalog, Tables, write_catalog
from ditf.datasets.spair import SPair
from ditf.errors import UserError
from ditf.metrics.intervals import difference, interval, read_units
from ditf.metrics.published import comparable_figures, published_figures
from ditf.report.compare import compare
from ditf.report.leaderboard import describe_related
from ditf.report.page import render
from tests.conftest import Project

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """
<script>
const sorted = (table, column) => {
  table.tHead.rows[0].cells[column].firstChild.click();
  const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
  return cells.map((cell) => cell.dataset.value).filter((value) => value !== undefined);
};
addEventListener("load", () => {
  const table = document.querySelector("#leaderboards ~ section table");
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const column = titles.indexOf("point@0.1");
  const found = { down: sorted(table, column), up: sorted(table, column) };
  found.aria = table.tHead.rows[0].cells[column].ariaSort;
  const filter = document.querySelector("input[type=search]");
  filter.value = "astronaut";
  for (const each of document.querySelectorAll("details")) each.open = true;
  filter.dispatchEvent(new Event("input"));
  const rows = [...filter.nextElementSibling.querySelector("table").tBodies[0].rows];
  found.kept = rows.filter((row) => row.checkVisibility()).map((row) => row.textContent);
  found.all = rows.length;
  const images = [...document.images];
  found.images = images.length;
  found.broken = images.filter((image) => !image.complete || !image.naturalWidth).length;
  found.charts = document.querySelectorAll("figure > svg").length;
  found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const state = document.body.appendChild(document.createElement("pre"));
  state.id = "found";
  state.textContent = JSON.stringify(found);
});
</script>
"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a headless browser whose profile lies beside it."""
    assert BROWSER
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    own = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}", *quiet]
    command = [BROWSER, *own, "--enable-logging=stderr", *options, page.as_uri()]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"HOME": str(page.parent)}
    )


@pytest.fixture(scope="module")
def report(finished: Project) -> str:
    return (finished.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_a_browser_shows_it_without_errors_and_its_tables_sort(report: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    shown = browse(page, "--window-size=400,800", "--dump-dom")
    assert "CONSOLE" not in shown.stderr
    match = re.search(r'<pre id="found">(.*?)</pre>', shown.stdout)
    assert match, shown.stderr
    found = json.loads(html.unescape(match[1]))
    values = [float(value) for value in found["down"]]
    assert values == sorted(values, reverse=True) and len(values) == 3
    assert found["up"] == found["down"][::-1] and found["aria"] == "ascending"
    assert 0 < len(found["kept"]) < found["all"] and all("astronaut" in text for text in found["kept"])
    assert found["images"] == report.count("<img") > 15 and found["broken"] == 0 and found["charts"] > 5
    assert not found["wide"]  # on a phone only tables scroll


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_what_the_browser_draws_is_not_blank(report: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report, encoding="utf-8")
    browse(page, "--window-size=1000,1400", f"--screenshot={tmp_path / 'shot.png'}")
    with Image.open(tmp_path / "shot.png") as shot:
        assert len(shot.convert("RGB").getcolors(2**24) or ()) > 100


def test_it_needs_no_network_and_its_images_are_whole(report: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"#][^"]*)"', report)
    assert all(address.startswith("data:") for address in addresses)
    assert ">00001</td>" in report  # names of frames are shown as they are, not as numbers
    assert all(f'id="{anchor}"' in report for anchor in re.findall(r'href="#([^"]+)"', report))
    assert "@import" not in report and "url(http" not in report
    animations = 0
    for address in re.findall(r'src="data:image/webp;base64,([^"]+)"', report):
        with Image.open(io.BytesIO(base64.b64decode(address))) as image:
            image.load()
            animations += getattr(image, "n_frames", 1) > 1
    assert animations == 5


def test_it_holds_metrics_intervals_published_numbers_and_provenance(report: str, finished: Project) -> None:
    results = finished.folder / "results"
    metrics = json.loads((results / "spair-flux/metrics.json").read_text())
    sums = read_units(results / "spair-flux/tables")["adaln"]["point@0.1"]
    low, high = interval(sums) or (0, 0)
    value = metrics["adaln"]["point@0.1"]
    assert sums.value() == pytest.approx(value, abs=0.005)
    assert f"{value:.2f} [{low:.2f}, {high:.2f}]" in report
    assert "published, arXiv" not in report  # these results are not those of the official split
    run = json.loads((results / "davis-flux/run.json").read_text())
    assert run["store"] in report
    assert "results of the miniature" in report and "tiny random model" not in report
    charts = (
        "PCK over alpha",
        "PCK by category",
        "J&amp;F by sequence",
        "Matches of the worst pair",
        "Masks of two-cross",
    )
    for name in charts:
        assert name in report


def test_it_is_readable(report: str, finished: Project) -> None:
    jf = json.loads((finished.folder / "results/davis-flux/metrics.json").read_text())["adaln+discard"]["J&F"]
    assert f"{100 * jf:.2f}" in report and f"{jf:.4g}<" not in report  # in percent
    assert not re.search(r"<td[^>]*>-?\d+\.\d{5,}</td>", report)  # few digits
    assert re.search(r">&lt;0\.001<|>0\.\d{3}<", report)  # p-values
    assert all(text in report for text in ("ensemble size", "over <b>units</b>", "Summary", ">hard<", ">target<"))
    assert not re.search(r'<img [^>]*alt="[^"]{0,20}"', report)  # alternative texts say what is seen
    assert report.count('<svg role="img" aria-label=') == report.count("<svg")
    assert "Recall against exact search" not in report  # of exact indexes there is nothing to draw
    assert "position: sticky" in report and "background: white" not in report


def test_published_figures_are_comparable_under_their_protocol_and_data_only() -> None:
    figures = published_figures()
    rows = {figure.row for figure in comparable_figures(figures, "pck-box", "SPair-71k test")}
    assert rows >= {"FLUX.1-dev with AdaLN", "DINOv2"}
    assert not comparable_figures(figures, "pck-image", "SPair-71k test")
    assert not comparable_figures(figures, "pck-box", "SPair-71k val")
    assert not comparable_figures(figures, "pck-box", "0123456789abcdef")


HEADER = "source,table,row,data,protocol,metric,value\n"


def test_a_figure_of_the_user_is_ranked_beside_results_of_the_same_benchmark(project: Project) -> None:
    tables = project.folder / "results/davis-flux/tables"
    benchmark = json.loads((tables / "benchmark.json").read_text()) | {"official": "Official val"}
    (tables / "benchmark.json").write_text(json.dumps(benchmark))
    lines = ["Paper A,,Best,Official val,davis-jf,J&F,99.9", "Paper B,,Other,Official test,davis-jf,J&F,98.7"]
    (project.folder / "published.csv").write_text(HEADER + "\n".join(lines) + "\n")
    shown = project.check("ditf", "results")
    assert "Official val, protocol davis-jf" in shown
    [row] = [line for line in shown.splitlines() if "published, Paper A" in line]
    assert "Best" in row and "99.90" in row
    assert "Paper B" not in shown
    project.stages("report")
    page = (project.folder / "report.html").read_text(encoding="utf-8")
    assert "published, Paper A" in page and "Paper B" not in page
    assert "The first mask is given" in page


def test_a_figure_of_another_protocol_stands_beside_the_closest_and_is_not_ranked(tmp_path: Path) -> None:
    table = tmp_path / "published.csv"
    table.write_text(HEADER + "Paper,Table 4,Probe,ADE20K val,linear-crops,mIoU,47.5\n")
    figures = published_figures(table)
    assert not comparable_figures(figures, "linear-pixels-full", "ADE20K val")
    [line] = describe_related(figures, "linear-pixels-full", "ADE20K val")
    assert line.startswith("Probe: mIoU 47.5 (Paper). Protocol linear-crops: ") and "random crops" in line
    assert not describe_related(figures, "linear-majority-full", "ADE20K val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,row\nA,B\n", "line 1: no column table"),
        (HEADER + "A,B,C,D,pck-bx,point@0.1,1\n", "line 2: protocol: pck-bx is not a protocol. Did you mean pck-box?"),
        (HEADER + "A,B,C,D,pck-box,point@0.1,high\n", "line 2: value: "),
        (HEADER + "A,B,C,D,pck-box,point@0.1,nan\n", "line 2: value: "),
        (HEADER + ",B,C,D,pck-box,point@0.1,1\n", "line 2: source: "),
        (HEADER + "A,B,C,D\n", "line 2: 4 fields, but the header has 7"),
    ],
)
def test_a_wrong_table_of_published_figures_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "published.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        published_figures(tmp_path / "published.csv")
    assert f"{tmp_path / 'published.csv'}: {message}" in str(caught.value)


def pairs_of(folder: Path, count: int, categories: Iterable[str]) -> Catalog:
    """Write a catalog with pairs of one image."""
    image = {"id": "a", "path": "a.jpg", "sha256": "", "pixels_sha256": "", "width": 8, "height": 8}
    names = itertools.cycle(categories)
    pairs = [
        {"pair": str(n), "category": next(names), "source": "a", "target": "a", "threshold": 1.0} for n in range(count)
    ]
    rows = {"images": [image | {"category": "", "prompt": ""}], "pairs": pairs}
    write_catalog(folder, Tables(rows, "longer"))
    return Catalog(folder)


def test_an_official_split_is_recognized_by_its_annotations(tmp_path: Path) -> None:
    dataset = SPair(type="spair", root="anywhere")
    release = dataset.release
    count = release.counts["pairs"]
    assert dataset.official_split(pairs_of(tmp_path / "all", count, release.names)) == "SPair-71k test"
    assert dataset.official_split(pairs_of(tmp_path / "fewer", count - 1, release.names)) == ""
    other = {*sorted(release.names)[1:], "spaceship"}
    assert dataset.official_split(pairs_of(tmp_path / "other", count, other)) == ""


def test_the_page_names_what_is_stale(finished: Project) -> None:
    params = load_params(finished.folder / "params.yaml")
    page = render(params, finished.folder / "results", {"spair-flux": "tasks.spair-flux.score changed"})
    assert page.count("Stale: run <code>dvc repro</code>") == 1


def test_the_intervals_table_agrees_with_the_metrics_of_every_task(finished: Project) -> None:
    for path in (finished.folder / "results").glob("*/tables/units.parquet"):
        metrics = json.loads((path.parents[1] / "metrics.json").read_text())
        for descriptor, values in metrics.items():
            for name, value in values.items():
                assert read_units(path.parent)[descriptor][name].value() == pytest.approx(value, abs=0.005)


def test_names_of_data_sets_are_text_only(finished: Project, tmp_path: Path) -> None:
    shutil.copytree(finished.folder / "results", tmp_path / "results")
    path = tmp_path / "results/spair-flux/tables/pck.csv"
    text = path.read_text().replace("astronaut", "<script>$\\alpha$ & co</script>")
    path.unlink()
    path.write_text(text, encoding="utf-8")
    page = render(load_params(finished.folder / "params.yaml"), tmp_path / "results")
    assert page.count("<script>") == 1 and "&lt;script&gt;$\\alpha$ &amp; co&lt;/script&gt;" in page


def compared(project: Project, *names: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.check("ditf", "compare", *names, "--json"))
    return found


def test_compare_prints_the_paired_difference_and_draws_what_changed_most(finished: Project, tmp_path: Path) -> None:
    drawing = tmp_path / "changed.png"
    found = compared(finished, "spair-flux/original", "spair-flux/adaln", "--out", str(drawing))
    units = read_units(finished.folder / "results/spair-flux/tables")
    one, other = (units[name]["point@0.1"] for name in ("original", "adaln"))
    expected = difference(one, other)
    first = found["metrics"][0]
    assert (first["metric"], first["difference"], first["p"]) == ("point@0.1", expected.value, expected.p)
    assert (first["low"], first["high"]) == expected.interval
    changes = [abs(row["difference"]) for row in found["changed"]]
    assert changes == sorted(changes, reverse=True) and len(changes) == 6
    with Image.open(drawing) as shown:
        assert shown.size[0] == 1200


def test_compare_with_an_earlier_revision(project: Project) -> None:
    before = json.loads((project.folder / "results/davis-flux/metrics.json").read_text())["adaln+discard"]["J&F"]
    data = project.folder / "data"
    data.rename(project.folder / "elsewhere")
    without = project.run("ditf", "compare", "spair-flux/original", "spair-flux")
    assert without.returncode == 0 and "95 % interval" in without.stdout and "nothing is drawn" in without.stderr
    (project.folder / "elsewhere").rename(data)
    shown = project.check("ditf", "compare", "spair-flux/original", "spair-flux")
    assert "95 % interval" in shown and "results/drawings/compare_spair-flux-original_spair-flux.png" in shown
    assert "report" not in project.check("dvc", "status", "report")  # whose results these drawings are not
    project.set("tasks.davis-flux.predict.topk", 1)
    shutil.rmtree(project.folder / "results/davis-flux")  # as DVC does before a stage runs
    (project.folder / "results/davis-flux").mkdir()
    project.stages("entries", "predict@davis-flux", "score@davis-flux")
    found = compared(project, "HEAD:davis-flux", "davis-flux")
    assert found["metrics"][0]["first"] == pytest.approx(before, abs=1e-4)
    assert found["metrics"][0]["second"] != found["metrics"][0]["first"]
    assert found["metrics"][0]["units"] == 5 and found["changed"][0]["unit"].count("/") == 1
    assert "no revision or experiment" in project.fail("ditf", "compare", "nowhere:davis-flux", "davis-flux")


def test_compare_in_a_clone_without_cache(finished: Project, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(finished.folder), str(tmp_path / "clone")], check=True)
    errors = Project(tmp_path / "clone").fail("ditf", "compare", "HEAD:spair-flux/adaln", "HEAD:spair-flux")
    assert "neither in DVC's cache nor in its remote storage" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("nothing", "spair-flux"), "no entry 'nothing'"),
        (("spair-flux/nothing", "spair-flux"), "'nothing' is not a descriptor of the task"),
        (("davis-flux", "spair-flux"), "davis-flux is of type propagation"),
        (("spair-search", "photos-search"), "no results by pair, sequence or image"),
        (("HEAD:nothing", "spair-flux"), "tasks of HEAD has no entry 'nothing'"),
    ],
)
def test_what_cannot_be_compared_is_said(
    finished: Project, names: tuple[str, str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    with pytest.raises(UserError, match=error):
        compare(load_params(), *names, None)


@pytest.mark.parametrize("out", [".", "drawing.txt", "params.yaml/drawing.png"])
def test_a_drawing_that_cannot_be_written_is_said_before_any_work(finished: Project, out: str) -> None:
    for command in (("compare", "spair-flux/adaln", "spair-flux"), ("search", "cat/cat_00")):
        assert f"--out {out}: " in finished.fail("ditf", *command, "--out", out)
