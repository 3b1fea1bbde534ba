"""The explorer's page at the paper's size, in Chromium: from the mouse to the map, and the first display of an image.

The features are random: 40x30 tokens of 3,072 channels.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from benchmarks.explore import ROOT, make_project, server
from benchmarks.report import load, machine, show

IMAGES = 6

# Times in milliseconds of the page's own functions, for one target: the map under the mouse, and the first display of
# an image from the request for its tokens and its picture to the drawn map.
MEASURE = """async ([images, count]) => {
  const source = await import("/source.js");
  const { descriptorAt, similarityMap, colourMap } = await import("/similarity.js");
  const { loadImage } = await import("/elements.js");
  const view = { entry: "photos-flux", block: 28, descriptor: "original" };
  const revision = (await source.project()).entries[0].revision;
  const canvas = document.createElement("canvas");
  canvas.width = 640;
  canvas.height = 480;
  const context = canvas.getContext("2d");
  const paint = (query, tokens, picture) => {
    const { canvas: map } = colourMap(similarityMap(query, tokens), tokens.rows, tokens.columns);
    context.globalAlpha = 1;
    context.drawImage(picture, 0, 0, 640, 480);
    context.globalAlpha = 0.6;
    context.drawImage(map, 0, 0, 640, 480);
    context.getImageData(0, 0, 1, 1);  // waits until it is drawn
  };
  const first = [];
  const loaded = [];
  for (const image of images) {
    const start = performance.now();
    const address = source.pictureAddress("photos-flux", image);
    const [tokens, picture] = await Promise.all([source.tokens(view, image, revision), loadImage(address)]);
    paint(descriptorAt(tokens, 10, 10), tokens, picture);
    first.push(performance.now() - start);
    loaded.push([tokens, picture]);
  }
  const maps = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    const query = descriptorAt(loaded[0][0], (37 * i) % 300, (53 * i) % 200);
    paint(query, ...loaded[1 + (i % (images.length - 1))]);
    maps.push(performance.now() - start);
  }
  return [first, maps];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ditf-") as folder:
        images = make_project(Path(folder), IMAGES)
        before = load()
        with server() as (address, _):
            first, maps = in_browser(address, images, options.maps)
        os.chdir(ROOT)
    rows = [
        (
            "mouse to map, one target",
            f"p50 **{np.median(maps):.1f} ms**, p99 {np.percentile(maps, 99):.1f} ms, least {min(maps):.1f} ms",
        ),
        ("first display of an image", f"p50 **{np.median(first):.0f} ms**, largest {max(first):.0f} ms"),
        ("load average of the machine before", before),
    ]
    show(f"Explorer, page ({machine()})", rows)


def in_browser(address: str, images: list[str], count: int) -> tuple[list[float], list[float]]:
    """Times of first displays and of maps in milliseconds."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address + "#view=match")
        page.locator("#view[aria-busy=false]").wait_for()
        page.evaluate(MEASURE, [images[:3], 20])  # compiles the functions, as the first movements do
        first, maps = page.evaluate(MEASURE, [images[3:], count])
        browser.close()
    return first, maps


if __name__ == "__main__":
    main()
