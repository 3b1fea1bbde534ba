"""The explorer's page, in a real browser."""

import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

import ditf
from ditf.features.store import FeatureStore
from ditf.types import Descriptor
from tests.conftest import BLOCK, Project

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

PATIENCE = 180_000  # milliseconds, for busy machines
SOURCE, TARGET = "cat/cat_00", "cat/cat_01"
POINT = (150, 100)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@dataclass
class Server:
    """A running `ditf serve`."""

    address: str
    process: "subprocess.Popen[str]"


def start(folder: Path) -> Server:
    """Start `ditf serve` in a project, and wait until it listens."""
    command = [str(Path(sys.executable).with_name("ditf")), "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout
    line = process.stdout.readline()
    match = re.search(r"http://\S+", line)
    assert match, line
    return Server(match.group(), process)


def stop(server: Server) -> None:
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0


@pytest.fixture(scope="module")
def server(finished: Project) -> Iterator[str]:
    running = start(finished.folder)
    yield running.address
    stop(running)


@dataclass
class Watched:
    """A page whose requests and errors are watched."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, address: str, **state: str) -> Page:
        """Open a view and wait until it has loaded."""
        self.page.goto(address + "#" + "&".join(f"{key}={value}" for key, value in state.items()))
        settle(self.page)
        return self.page


@pytest.fixture
def watched(browser: Browser, server: str) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(PATIENCE)
    watched = Watched(page)
    page.on("request", lambda request: watched.requests.append(request.url))
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("console", lambda line: watched.errors.append(line.text) if line.type == "error" else None)
    yield watched
    page.close()
    assert watched.errors == []
    foreign = [url for url in watched.requests if not url.startswith((server, "data:", "blob:"))]
    assert foreign == []


def settle(page: Page) -> None:
    """Wait until the view that the address names has loaded."""
    expect(page.locator("#view")).to_have_attribute("aria-busy", "false")


def hover(page: Page, point: tuple[int, int], size: tuple[int, int]) -> None:
    """Move the mouse over a pixel of the source image."""
    box = page.locator("canvas.hover").bounding_box()
    assert box
    x, y = ((p + 0.5) / side for p, side in zip(point, size, strict=True))
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_function("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")


def features_of(project: Project, image: str, entry: str = "spair-flux") -> Any:
    return ditf.open_store(project.folder / "cache/features" / entry).features(BLOCK, image)


def test_the_map_under_the_mouse_is_the_librarys(watched: Watched, server: str, finished: Project) -> None:
    page = watched.open(
        server, view="match", entry="spair-flux", source=SOURCE, targets=TARGET, columns="original|adaln"
    )
    source, target = (features_of(finished, image) for image in (SOURCE, TARGET))
    hover(page, POINT, source.size)
    point = tuple(int(part) for part in page.locator("figure").first.locator("figcaption span").inner_text().split(","))
    assert np.abs(np.subtract(point, POINT)).max() <= 1
    descriptors: tuple[Descriptor, ...] = ("original", "adaln")
    for number, descriptor in enumerate(descriptors):
        shown = page.evaluate(
            "(n) => window.explorer.panels[n].values && [...window.explorer.panels[n].values]", number
        )
        expected = ditf.similarity(source, target, [point], descriptor)[0].ravel()
        np.testing.assert_allclose(shown, expected, atol=2e-3)


def test_a_click_shows_the_librarys_match(watched: Watched, server: str, finished: Project) -> None:
    page = watched.open(server, view="match", entry="spair-flux", source=SOURCE, targets=TARGET, columns="adaln")
    source, target = (features_of(finished, image) for image in (SOURCE, TARGET))
    hover(page, POINT, source.size)
    page.mouse.down()
    page.mouse.up()
    figure = page.locator("figure[data-match]")
    figure.wait_for()
    [point] = [tuple(int(p) for p in page.evaluate("location.hash").split("point=")[1].split("&")[0].split("%2C"))]
    [row] = ditf.match(source, target, [point], "adaln").to_pylist()
    assert figure.get_attribute("data-match") == f"{row['target_x']},{row['target_y']}"
    page.wait_for_function("() => document.getElementById('live').textContent.includes('similarity')")


def test_a_link_restores_the_view(watched: Watched, server: str, finished: Project) -> None:
    state = {"view": "match", "entry": "spair-flux", "source": SOURCE, "targets": TARGET, "columns": "original"}
    page = watched.open(server, **state, point="80,60")
    expect(page.locator("figure[data-match]")).to_have_count(1)
    expect(page.locator("figure").first.locator("figcaption")).to_contain_text("80, 60")
    page.get_by_role("button", name="adaln", exact=True).click()
    expect(page.locator("figure[data-descriptor]")).to_have_count(2)
    settle(page)
    page.go_back()
    expect(page.locator("figure[data-descriptor]")).to_have_count(1)


def test_arrow_keys_move_the_point(watched: Watched, server: str) -> None:
    page = watched.open(server, view="match", entry="spair-flux", source=SOURCE, targets=TARGET, columns="adaln")
    page.locator("canvas.hover").focus()
    caption = page.locator("figure").first.locator("figcaption span")
    x, y = (int(part) for part in caption.inner_text().split(","))
    page.keyboard.press("ArrowRight")
    expect(caption).to_have_text(f"{x + 4}, {y}")
    page.keyboard.press("Enter")
    page.locator("figure[data-match]").wait_for()


def test_pairs_are_filtered_and_open_in_match(watched: Watched, server: str) -> None:
    page = watched.open(server, view="pairs", task="spair-flux")
    with urlopen(f"{server}api/pairs?task=spair-flux&descriptor=adaln%2Bdiscard&category=cat") as response:
        expected = json.load(response)
    page.get_by_label("Category").select_option("cat")
    settle(page)
    expect(page.locator(".card")).to_have_count(expected["total"])
    shown = [card.get_attribute("data-pair") for card in page.locator(".card").all()]
    assert shown == [pair["pair"] for pair in expected["pairs"]]
    page.locator(".card .open").first.click()
    figure = page.locator("figure[data-match]").first
    figure.wait_for()
    expect(figure.locator("figcaption")).to_contain_text("of the threshold")


def test_two_results_of_a_pair_are_compared_and_saved(watched: Watched, server: str) -> None:
    query = "task=spair-flux&descriptor=adaln%2Bdiscard&other=spair-flux/original&sort=difference"
    with urlopen(f"{server}api/pairs?{query}") as response:
        first = json.load(response)["pairs"][0]
    page = watched.open(server, view="pairs", task="spair-flux", descriptor="adaln%2Bdiscard")
    page.get_by_label("Compare with").select_option("spair-flux/original")
    settle(page)
    card = page.locator(".card").first
    assert card.get_attribute("data-pair") == first["pair"]
    expect(card.locator("h2")).to_contain_text(f"{first['difference']:.2f} smaller with adaln+discard")
    for number, (name, pair) in enumerate((("adaln+discard", first), ("original", first["other"]))):
        figure = card.locator("figure").nth(number)
        expect(figure.locator("strong")).to_have_text(name)
        right = sum(point["correct"] for point in pair["points"])
        expect(figure.locator("figcaption span")).to_have_text(
            f"{right} of {len(pair['points'])} correct, mean error {pair['error']:.2f}"
        )
    images = []
    for number in range(2):
        page.wait_for_function("(n) => document.querySelectorAll('.card canvas')[n].height === 480", arg=number)
        with page.expect_download() as download:
            card.get_by_role("button", name="Save").nth(number).click()
        images.append(np.asarray(Image.open(download.value.path())))
    assert images[0].shape == images[1].shape
    assert (images[0] != images[1]).any()  # the matches differ
    card.locator(".open").first.click()
    expect(page.locator("figure[data-match]")).to_have_count(2)
    shown = [each.get_attribute("data-descriptor") for each in page.locator("figure[data-descriptor]").all()]
    assert shown == ["adaln+discard", "original"]


def test_a_box_is_searched(watched: Watched, server: str) -> None:
    page = watched.open(server, view="search", task="spair-search", source=SOURCE)
    canvas = page.locator("canvas.hover")
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=3)
    page.mouse.up()
    page.wait_for_function("() => location.hash.includes('area=')")
    settle(page)
    first = page.locator(".card").first.get_attribute("data-image")
    page.locator(".card .open").first.click()
    page.wait_for_function("(image) => new URLSearchParams(location.hash.slice(1)).get('source') === image", arg=first)


def test_a_channel_is_shown_as_a_map(watched: Watched, server: str) -> None:
    page = watched.open(server, view="channels", entry="spair-flux", source=SOURCE)
    expect(page.locator("figure")).to_have_count(6)
    second = page.locator("tbody button").nth(1).inner_text()
    page.locator("tbody button").nth(1).click()
    settle(page)
    expect(page.locator("tr[aria-selected=true] button")).to_have_text(second)
    label = f"Channel {second} of {SOURCE}, original"
    expect(page.get_by_role("img", name=label)).to_be_visible()


def test_a_video_shows_its_worst_frame(watched: Watched, server: str) -> None:
    with urlopen(f"{server}api/videos/one-disc?task=davis-flux&descriptor=adaln%2Bdiscard") as response:
        frames = json.load(response)["frames"]
    worst = min((frame for frame in frames if frame["J&F"] is not None), key=lambda frame: frame["J&F"])
    page = watched.open(server, view="video", task="davis-flux", sequence="one-disc")
    page.get_by_role("button", name="Worst frame").click()
    page.wait_for_function(
        "(name) => document.querySelector('.player').previousSibling.dataset.frame === name", arg=worst["name"]
    )
    scores = f"J {100 * worst['J']:.1f}  F {100 * worst['F']:.1f}"
    expect(page.locator("figcaption span").first).to_have_text(scores)
    page.reload()
    expect(page.locator("figcaption span").first).to_have_text(scores)


def test_similarities_between_frames_follow_the_mouse(watched: Watched, server: str, finished: Project) -> None:
    with urlopen(f"{server}api/videos/one-disc?task=davis-flux&descriptor=adaln%2Bdiscard") as response:
        frames = json.load(response)["frames"]
    first, shown, last = (features_of(finished, frames[n]["id"], "davis-flux") for n in (0, 3, 4))
    page = watched.open(server, view="video", task="davis-flux", sequence="one-disc", frame=frames[3]["name"])
    player, reference = page.locator("figure canvas").nth(0), page.locator("figure canvas").nth(1)

    def move(canvas: Locator) -> None:
        box = canvas.bounding_box()
        assert box
        page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.55 * box["height"])

    def check(values: str, source: Any, target: Any, point: str) -> None:
        page.wait_for_function(f"() => window.explorer.{values} && window.explorer.{point}")
        shown = page.evaluate(f"[...window.explorer.{values}]")
        place = page.evaluate(f"window.explorer.{point}")
        assert np.abs(np.subtract(place, (0.45 * source.size[0], 0.55 * source.size[1]))).max() <= 2
        expected = ditf.similarity(source, target, [place], "adaln+discard")[0].ravel()
        np.testing.assert_allclose(shown, expected, atol=2e-3)

    move(player)
    check("reference.values", shown, first, "hover")
    move(reference)
    check("map", first, shown, "pointer.point")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("() => location.hash.includes('point=')")
    player.focus()
    page.keyboard.press("ArrowRight")  # the pinned point stays
    page.wait_for_function("(name) => window.explorer.canvas.dataset.frame === name", arg=frames[4]["name"])
    check("map", first, last, "pointer.point")
    page.reload()
    settle(page)
    check("map", first, last, "pointer.point")
    page.get_by_role("button", name="Use as reference").click()
    expect(page.locator("figure strong").nth(1)).to_have_text(f"Reference: frame 5, {frames[4]['name']}")
    page.wait_for_function("() => !location.hash.includes('point=')")


def test_a_painted_mask_is_scored_where_true_masks_exist(watched: Watched, server: str) -> None:
    with urlopen(f"{server}api/videos/one-disc?task=davis-flux&descriptor=adaln%2Bdiscard") as response:
        frame = json.load(response)["frames"][2]
    page = watched.open(server, view="video", task="davis-flux", sequence="one-disc", frame=frame["name"])
    scores = f"J {100 * frame['J']:.1f}  F {100 * frame['F']:.1f}"
    values = page.locator("figcaption span").first
    expect(values).to_have_text(scores)
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("button", name="Start from the true mask").click()
    page.wait_for_function("() => !window.explorer.painter.empty")
    page.get_by_role("button", name="Propagate").click()
    page.get_by_role("link", name="Save masks").wait_for()
    expect(values).to_have_text("painted mask: not scored")  # the first frame
    page.locator("figure canvas").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(values).to_have_text(f"painted mask: {scores}")
    page.get_by_role("button", name="Back to the results").click()
    expect(values).to_have_text(scores)


def test_a_painted_mask_is_propagated(watched: Watched, server: str, finished: Project) -> None:
    page = watched.open(server, view="video", task="davis-flux", sequence="one-disc")
    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.locator("canvas.hover").first
    box = canvas.bounding_box()
    assert box
    page.get_by_role("button", name="Propagate").click()
    expect(page.locator("section [role=alert]")).to_contain_text("shows no object")
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Propagate").click()
    save = page.get_by_role("link", name="Save masks")
    save.wait_for(timeout=PATIENCE)
    with page.expect_download() as download:
        save.click()
    names = [path.name for path in sorted((finished.folder / "data/sample/DAVIS").rglob("JPEGImages/*/one-disc/*.jpg"))]
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == [f"one-disc/{Path(name).stem}.png" for name in names]
        with archive.open(archive.namelist()[0]) as file:
            first = np.asarray(Image.open(file))
    height, width = first.shape
    assert set(np.unique(first)) == {0, 1}
    assert first[height // 2, int(0.45 * width)] == 1
    assert first[height // 8, width // 8] == 0


def test_a_dropped_image_is_matched(watched: Watched, server: str) -> None:
    page = watched.open(server, view="match", entry="spair-flux", source=SOURCE, targets=TARGET, columns="adaln")
    state = {"state": "waiting", "done": 0, "total": 40}
    page.route("**/api/jobs/*", lambda route: route.fulfill(json=state))
    picture = Image.new("RGB", (200, 120), "navy")
    picture.paste("orange", (60, 30, 120, 90))
    content = io.BytesIO()
    picture.save(content, "PNG")
    page.evaluate(
        """async (bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "square.png", { type: "image/png" }));
            window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        list(content.getvalue()),
    )
    work = page.locator("#work")
    expect(work).to_contain_text("square.png")
    expect(work).to_contain_text("waiting for other work")
    state["state"] = "running"
    expect(work).to_contain_text("loading the model")
    state["done"] = 1
    expect(work).to_contain_text("1 of 40 noise samples")
    state["done"] = 2
    expect(work).to_contain_text(re.compile(r"2 of 40 noise samples, \d+ (s|min) left"))
    assert work.locator("progress").evaluate("bar => bar.value / bar.max") == 2 / 40
    page.unroute("**/api/jobs/*")
    source = page.locator("figure[data-image^='upload/']")
    source.wait_for(timeout=PATIENCE)
    expect(page.locator("#notice")).to_be_hidden()
    settle(page)
    canvas = source.locator("canvas")
    canvas.click()
    page.locator("figure[data-match]").first.wait_for()
    page.reload()
    source.wait_for()


def test_a_text_file_is_refused(watched: Watched, server: str) -> None:
    page = watched.open(server, view="match", entry="spair-flux")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add an image").click()
    chooser.value.set_files({"name": "notes.png", "mimeType": "image/png", "buffer": b"not a picture"})
    expect(page.locator("#notice")).to_contain_text("not an image")
    [error] = watched.errors  # Chromium reports the status of the answer
    assert "400" in error
    watched.errors.clear()


def test_two_tabs_do_not_disturb_each_other(watched: Watched, server: str, browser: Browser) -> None:
    page = watched.open(server, view="match", entry="spair-flux", source=SOURCE, targets=TARGET, columns="adaln")
    other = browser.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(f"{server}#view=channels&entry=spair-flux&source={TARGET}")
    expect(other.locator("figure")).to_have_count(6)
    hover(page, POINT, (320, 213))
    expect(page.locator("figure[data-descriptor]")).to_have_count(1)
    assert "view=match" in page.url
    assert "view=channels" in other.url
    other.close()


def test_keys_switch_views_and_explain_themselves(watched: Watched, server: str) -> None:
    page = watched.open(server, view="match", entry="spair-flux")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("4")
    expect(page.locator("nav a[aria-current]")).to_have_text("Search")
    settle(page)
    page.locator("canvas.hover").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('area=')")


def test_a_slow_view_does_not_replace_the_next_one(watched: Watched, server: str) -> None:
    page = watched.open(server, view="match", entry="spair-flux")
    held: list[Route] = []
    page.route("**/api/pairs*", lambda route: held.append(route))
    with page.expect_request("**/api/pairs*"):
        page.get_by_role("link", name="Pairs").click()
    page.get_by_role("link", name="Channels").click()
    settle(page)
    with page.expect_response("**/api/pairs*"):
        held[0].continue_()
    page.wait_for_timeout(500)  # an overwritten view would show by then
    assert page.get_by_role("heading", name="Largest channels").count() == 1


def test_the_theme_is_kept(watched: Watched, server: str) -> None:
    page = watched.open(server, view="pairs")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("Switch between light and dark").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.reload()
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after


def test_other_features_of_the_same_image_are_a_column(browser: Browser, project: Project) -> None:
    features = project.folder / "cache/features"
    shutil.copytree(features / "spair-flux", features / "again")
    project.set("features.again", project.params["features"]["spair-flux"])
    running = start(project.folder)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(running.address + f"#view=match&entry=spair-flux&source={SOURCE}&targets={TARGET}&columns=adaln")
    page.get_by_text("Add a column").click()
    page.locator(".menu").get_by_label("Features").select_option("again")
    page.get_by_role("button", name="Add", exact=True).click()
    panels = page.locator("figure[data-descriptor]")
    expect(panels).to_have_count(2)
    settle(page)
    hover(page, POINT, (320, 213))
    first, second = (page.evaluate("(n) => [...window.explorer.panels[n].values]", n) for n in range(2))
    assert first == second
    page.get_by_role("button", name=f"adaln, block {BLOCK}, again").click()
    expect(panels).to_have_count(1)
    page.close()
    stop(running)


@pytest.mark.slow
def test_rebuilt_and_missing_features_are_noticed(browser: Browser, project: Project) -> None:
    running = start(project.folder)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(running.address + "#view=match&entry=spair-flux")
    settle(page)
    store = project.folder / "cache/features/spair-flux"
    store.rename(store.with_name("elsewhere"))
    expect(page.locator("#notice")).to_contain_text("The features changed", timeout=PATIENCE)
    with page.expect_navigation():
        page.get_by_role("button", name="Load the page again").click()
    settle(page)
    expect(page.locator("#view .message")).to_contain_text("Run `dvc repro features@spair-flux`")
    store.with_name("elsewhere").rename(store)
    page.close()
    stop(running)


def test_missing_features_are_one_line_beside_the_choice(browser: Browser, project: Project) -> None:
    project.set("features.again", project.params["features"]["spair-flux"])
    project.set("tasks.again", project.params["tasks"]["spair-flux"])
    running = start(project.folder)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(running.address + "#view=match&entry=again")
    settle(page)
    missing = page.locator("#view .message")
    expect(missing).to_have_text("cache/features/again: no features yet. Run `dvc repro features@again`.")
    page.get_by_label("Features").select_option("spair-flux")
    settle(page)
    expect(page.locator("figure[data-descriptor]")).not_to_have_count(0)
    page.goto(running.address + "#view=pairs&task=again")
    settle(page)
    expect(missing).to_have_text("results/again: no results yet. Run `dvc repro score@again`.")
    page.get_by_label("Task").select_option("spair-flux")
    settle(page)
    expect(page.locator(".card")).not_to_have_count(0)
    page.close()
    stop(running)


def damage(store: Path, image: str) -> None:
    """Change a byte of the features of an image."""
    reader = ditf.open_store(store)
    assert isinstance(reader, FeatureStore)
    path = reader.chunk_path(f"block{BLOCK}/tokens", reader.index(image))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.unlink()  # a hard link of DVC's cache
    path.write_bytes(data)


def test_a_damaged_image_is_one_line_and_others_are_shown(browser: Browser, project: Project) -> None:
    damage(project.folder / "cache/features/spair-flux", TARGET)
    davis = project.folder / "cache/features/davis-flux"
    damage(davis, next(id for id in ditf.open_store(davis).ids if "one-disc" in id))
    running = start(project.folder)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(
        running.address + f"#view=match&entry=spair-flux&source={SOURCE}&targets={TARGET}|cat/cat_02&columns=adaln"
    )
    settle(page)
    expect(page.locator("figure .message")).to_contain_text("Run `ditf repair` to compute it again.")
    page.locator("canvas.hover").click()
    expect(page.locator("figure[data-match]")).to_have_attribute("data-image", "cat/cat_02")
    page.goto(running.address + f"#view=match&entry=spair-flux&source={TARGET}&columns=adaln")
    settle(page)
    expect(page.locator("#view > .message")).to_contain_text(f"item '{TARGET}', block{BLOCK}/tokens, is damaged")
    page.locator(f".picker button[title='{SOURCE}']").click()
    settle(page)
    expect(page.locator("#view > .message")).to_have_count(0)
    for view in ("channels", "search"):
        page.goto(running.address + f"#view={view}&entry=spair-flux&source={TARGET}")
        settle(page)
        expect(page.locator("#view > .message")).to_contain_text("Run `ditf repair` to compute it again.")
        page.get_by_role("combobox", name="Image").select_option(SOURCE)
        settle(page)
        expect(page.locator("#view > .message")).to_have_count(0)
    page.goto(running.address + "#view=video&task=davis-flux&sequence=one-disc&frame=00003")
    settle(page)
    page.locator("figure canvas").first.hover()
    caption = page.locator("figure", has_text="Reference").locator("figcaption span")
    expect(caption).to_contain_text("Run `ditf repair` to compute it again.")
    assert errors == []
    page.close()
    stop(running)


@pytest.fixture
def exported(finished: Project, tmp_path: Path) -> Iterator[str]:
    """The address of an exported page below a folder of an ordinary web server."""
    shown = finished.check("ditf", "explore", "--export", str(tmp_path / "site" / "sub"))
    assert "differs from the exact one by at most" in shown
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/sub/"
        server.shutdown()


def test_an_exported_page_needs_no_server(browser: Browser, exported: str, finished: Project, tmp_path: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(exported + "#view=pairs")
    settle(page)
    cards = page.locator(".card")
    expect(cards).to_have_count(8)
    page.get_by_label("Compare with").select_option("spair-flux/original")
    settle(page)
    expect(page.locator(".card figure")).to_have_count(16)
    page.get_by_label("Compare with").select_option("")
    settle(page)
    expect(page.locator(".card figure")).to_have_count(8)
    cards.first.locator(".open").click()
    figure = page.locator("figure[data-match]").first
    figure.wait_for()
    settle(page)
    state = dict(parse_qsl(page.evaluate("location.hash.slice(1)")))
    source, target = (features_of(finished, state[name]) for name in ("source", "targets"))
    point = [int(part) for part in state["point"].split(",")]
    descriptors: tuple[Descriptor, ...] = ("original", "adaln", "adaln+discard")
    note = page.locator("footer").inner_text()
    [difference] = re.findall(r"at most (\d\.\d+)", note)
    for number, descriptor in enumerate(descriptors):
        shown = page.evaluate("(n) => [...window.explorer.panels[n].values]", number)
        expected = ditf.similarity(source, target, [point], descriptor)[0].ravel()
        # The point lies between tokens, so that errors of four tokens add up to no more than twice the stated one.
        np.testing.assert_allclose(shown, expected, atol=2 * float(difference) + 1e-3)
    assert errors == []
    assert [url for url in requests if not url.startswith((exported, "data:", "blob:"))] == []
    page.close()


def test_an_export_keeps_an_image_small_and_spares_other_files(finished: Project, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    finished.check("ditf", "explore", "--export", str(folder))
    listing = json.loads((folder / "data/images.json").read_text())
    for image in listing["images"]:
        files = [image["picture"], *(file["path"] for file in listing["descriptors"][image["id"]].values())]
        assert sum((folder / "data" / name).stat().st_size for name in files) <= 300_000
    finished.check("ditf", "explore", "--export", str(folder))  # an earlier export is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert "holds other files" in finished.fail("ditf", "explore", "--export", str(tmp_path / "mine"))
    assert "has no such pair" in finished.fail("ditf", "explore", "--export", str(folder), "--pair", "nothing")
    assert "only with --export" in finished.fail("ditf", "explore", "--pair", "nothing")


def test_exports_to_one_folder_at_once_leave_a_whole_page(finished: Project, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("ditf")), "explore", "--export", str(tmp_path / "page")]
    running = [subprocess.Popen(command, cwd=finished.folder, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(process.communicate()[1], process.returncode) for process in running]
    assert 0 in [status for _, status in ends]
    for error, status in ends:
        assert status == 0 or error.startswith("error: ")
        assert "Traceback" not in error
    described = json.loads((tmp_path / "page/data/images.json").read_text())
    files = [file["path"] for each in described["descriptors"].values() for file in each.values()]
    assert all((tmp_path / "page/data" / name).is_file() for name in files)
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
