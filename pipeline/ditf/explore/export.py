"""Export the views Match and Pairs as files that any web server can serve."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ditf.errors import UserError
from ditf.explore.library import Explorer, View
from ditf.files import reporting_write_errors
from ditf.types import Descriptor

PAGE = Path(__file__).with_name("page")
SERVER_ONLY = ("server.js",)  # modules of the page that an export does not load
PICTURE_SIDE = 640  # pixels
BYTES_PER_IMAGE = 300_000  # of its picture and all its descriptors
MOST_PAIRS = 8

Floats = NDArray[np.float32]


def export(explorer: Explorer, folder: Path, task: str, pairs: Sequence[str] = ()) -> float:
    """Write a page with the pairs of a task that needs no server.

    The descriptors of an image are reduced so that they fit into 300 kB together with its picture. A principal
    component analysis without centring, which keeps cosine similarities best, leaves fewer channels. These become
    eight-bit numbers.

    Args:
        explorer: The project.
        folder: Folder to write. It may be an earlier export, which is replaced.
        task: An entry of `tasks` of type correspondence.
        pairs: Names of the pairs. By default, up to eight from the best to the worst.

    Returns:
        The largest difference between a similarity on the page and the exact one, over all tokens of the pairs.

    Raises:
        UserError: The folder has other files, or a pair does not exist.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "data" / "project.json").is_file():
        raise UserError(f"{folder}: holds other files. Choose a new folder.")
    settings = explorer.correspondence(task)
    descriptors, block, entry = settings.predict.descriptors, settings.predict.block, settings.features
    chosen = _choose(explorer, task, descriptors[-1], pairs)
    names = {pair["pair"] for pair in chosen}
    ids = list(dict.fromkeys(pair[side] for pair in chosen for side in ("source", "target")))
    with reporting_write_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-")
    with reporting_write_errors(folder), temporary as name_of_parent:
        parent = Path(name_of_parent)
        made = parent / "page"
        data = made / "data"
        data.mkdir(parents=True)
        for name, content in page_files().items():
            (made / name).write_bytes(content)
        pictures = {}
        for number, image in enumerate(ids):
            pictures[image] = f"image-{number}.jpg"
            (data / pictures[image]).write_bytes(explorer.picture(entry, image, PICTURE_SIDE))
        budget = (BYTES_PER_IMAGE - max((data / name).stat().st_size for name in pictures.values())) // len(descriptors)
        files: dict[str, dict[str, Any]] = {image: {} for image in ids}
        difference = 0.0
        for number, descriptor in enumerate(tqdm(descriptors, "export", delay=2)):
            reduced, worst = _reduce(explorer, View(entry, block, descriptor), ids, chosen, budget)
            difference = max(difference, worst)
            for index_of_image, (image, (content, described)) in enumerate(reduced.items()):
                path = f"tokens-{index_of_image}-{number}.bin"
                (data / path).write_bytes(content)
                files[image][f"{block}/{descriptor}"] = described | {"path": path}
            rows = [pair for pair in explorer.pairs(task, descriptor) if pair["pair"] in names]
            _write(data / f"pairs-{descriptor.replace('+', '-')}.json", {"pairs": rows})
        images = explorer.images(entry)["images"]
        listing = [row | {"picture": pictures[row["id"]]} for row in images if row["id"] in pictures]
        categories = sorted({row["category"] for row in listing})
        _write(data / "images.json", {"images": listing, "categories": categories, "descriptors": files})
        _write(data / "project.json", _describe(explorer, task, difference))
        if folder.exists():
            folder.replace(parent / "earlier")  # which is removed with its parent
        made.replace(folder)
    return difference


def page_files() -> dict[str, bytes]:
    """Return the files of a page that needs no server by their names, without its data."""
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.name not in SERVER_ONLY}
    return files | {"index.html": files["index.html"].replace(b"<html ", b"<html data-static ", 1)}


def _choose(explorer: Explorer, task: str, descriptor: Descriptor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the named pairs, or up to eight from the best to the worst, at most one with each source image."""
    rows = {pair["pair"]: pair for pair in explorer.pairs(task, descriptor)}
    if unknown := [name for name in names if name not in rows]:
        raise UserError(f"--pair {unknown[0]}: {task} has no such pair. A pair is named like {next(iter(rows))}.")
    if names:
        return [rows[name] for name in names]
    ranked = sorted(rows.values(), key=lambda pair: (pair["error"], pair["pair"]))
    by_source = list({pair["source"]: pair for pair in reversed(ranked)}.values())
    by_source.sort(key=lambda pair: (pair["error"], pair["pair"]))
    places = np.unique(np.linspace(0, len(by_source) - 1, min(MOST_PAIRS, len(by_source))).round().astype(int))
    return [by_source[place] for place in places]


def _reduce(
    explorer: Explorer, view: View, ids: Sequence[str], pairs: Sequence[dict[str, Any]], budget: int
) -> tuple[dict[str, tuple[bytes, dict[str, Any]]], float]:
    """Reduce the descriptors of images.

    Args:
        explorer: The project.
        view: Features to read.
        ids: Ids of the images.
        pairs: Pairs whose similarities are compared with the exact ones.
        budget: Largest size of an image's reduced descriptors in bytes.

    Returns:
        For each image, the content of its file and what describes it; and the largest difference of a similarity.
    """
    exact: dict[str, Floats] = {}
    lengths: dict[str, Floats] = {}
    shapes: dict[str, dict[str, Any]] = {}
    for image in ids:
        content, (rows, columns), (width, height) = explorer.tokens(view, image)
        n = rows * columns
        lengths[image] = np.frombuffer(content[-4 * n :], "<f4")
        exact[image] = np.frombuffer(content[: -4 * n], "<f2").reshape(n, -1).astype(np.float32)
        shapes[image] = {"rows": rows, "columns": columns, "width": width, "height": height}
    n, channels = max(len(x) for x in exact.values()), next(iter(exact.values())).shape[1]
    kept = max(1, min(channels, (budget - 4 * n) // (n + 4)))
    moment = np.zeros((channels, channels))
    for tokens in exact.values():
        moment += tokens.T.astype(np.float64) @ tokens
    axes = np.linalg.eigh(moment)[1][:, ::-1][:, :kept].astype(np.float32)
    files, restored = {}, {}
    for image in ids:
        projected = exact[image] @ axes
        scales = np.maximum(np.abs(projected).max(0) / 127, 1e-12).astype("<f4")
        small = (projected / scales).round().astype(np.int8)
        restored[image] = small * scales
        content = scales.tobytes() + lengths[image].tobytes() + small.tobytes()
        files[image] = (content, shapes[image] | {"channels": kept})
    difference = 0.0
    for pair in pairs:
        first, second = pair["source"], pair["target"]
        approximate = restored[first] @ restored[second].T
        difference = max(difference, float(np.abs(approximate - exact[first] @ exact[second].T).max()))
    return files, difference


def _describe(explorer: Explorer, task: str, difference: float) -> dict[str, Any]:
    """Return what the page reads as the description of the project."""
    project = explorer.project()
    described = next(each for each in project["tasks"] if each["name"] == task)
    entry = next(each for each in project["entries"] if each["name"] == described["features"])
    entry["blocks"] = [block for block in entry["blocks"] if block["block"] == described["block"]]
    entry["descriptors"] = described["descriptors"]
    note = (
        "This page computes everything in the browser, from descriptors that were reduced to fit. A similarity "
        f"differs from the exact one by at most {difference:.3f}. The command ditf explore shows exact values, all "
        "images, videos and search."
    )
    return {"name": project["name"], "entries": [entry], "tasks": [described], "note": note}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
