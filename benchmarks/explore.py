"""The explorer's server at the paper's size: the first display of an image, and many requests of several clients."""

import argparse
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from PIL import Image

from benchmarks.report import load, machine, show
from ditf.config.params import load_params
from ditf.data.catalog import write_catalog
from ditf.features.job import key_of
from ditf.features.store_writer import StoreItem, write_store

GRID, CHANNELS, SIZE, BLOCK = (30, 40), 3072, (640, 480), 28
VIEW: dict[str, Any] = {"entry": "photos-flux", "block": BLOCK, "descriptor": "adaln+discard"}
MEMORY = 128  # MiB, so that features leave the memory during the measurement
ROOT = Path(__file__).parents[1]


def make_project(folder: Path, images: int) -> list[str]:
    """Write a project with random features of random images. Returns the ids of the images."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, names in {"datasets": ["photos"], "features": ["photos-flux"], "tasks": []}.items():
        params[section] = {name: params[section][name] for name in names}
    params["datasets"]["photos"]["root"] = "photos"
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(images):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"photos/{number:03d}.jpg")
    os.chdir(folder)
    tables = load_params().datasets["photos"].read()
    write_catalog(Path("catalogs/photos"), tables)
    rows = tables.rows["images"]
    items = [
        StoreItem(row["id"], key_of(row["pixels_sha256"], row["prompt"]), GRID, SIZE, row["prompt"]) for row in rows
    ]
    modulation = rng.standard_normal((1, 3, CHANNELS)).astype(np.float32)
    features = (
        {BLOCK: (rng.standard_normal((GRID[0] * GRID[1], CHANNELS), dtype=np.float32), modulation)} for _ in items
    )
    write_store(Path("cache/features/photos-flux"), items, features)
    return [item.id for item in items]


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Run `ditf serve`, and yield its address and process id."""
    command = [str(Path(sys.executable).with_name("ditf")), "serve", "--port", "0", "--memory", str(MEMORY)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address
    try:
        yield address.group(), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def held_memory(process: int) -> float:
    """The memory that a process holds, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def first_displays(address: str, ids: list[str]) -> list[float]:
    """Seconds until the picture and the tokens of each image are here, read for the first time."""
    with httpx.Client(base_url=address, timeout=60) as client:
        client.get("/api/project").raise_for_status()
        seconds = []
        for image in ids:
            start = time.perf_counter()
            client.get(f"/api/images/{image}", params={"entry": VIEW["entry"]}).raise_for_status()
            client.get("/api/tokens", params=VIEW | {"image": image}).raise_for_status()
            seconds.append(time.perf_counter() - start)
    return seconds


def requests(ids: list[str], seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and arguments of requests as several people and programs would send them."""
    rng = np.random.default_rng(seed)
    entry = {"entry": VIEW["entry"]}
    while True:
        source, target = (str(image) for image in rng.choice(ids, 2))
        where = VIEW | {"source": source, "target": target}
        yield "GET", "/api/tokens", {"params": VIEW | {"image": source}}
        yield "GET", "/api/similarity", {"params": where | {"x": 320, "y": 200}}
        yield "POST", "/api/match", {"json": where | {"points": [[100, 100], [300, 200]]}}
        yield "GET", f"/api/images/{source}", {"params": entry | {"side": 512}}
        yield "GET", "/api/images", {"params": entry}
        yield "GET", "/api/project", {}


def soak(address: str, process: int, ids: list[str], count: int, clients: int) -> tuple[list[float], list[float]]:
    """Send requests from several clients at once.

    Returns:
        Seconds of each request, and the memory of the server in MB before the requests and after each quarter of them.
    """

    def send(number: int, share: int) -> list[float]:
        seconds = []
        with httpx.Client(base_url=address, timeout=120) as client:
            for method, path, arguments in itertools.islice(requests(ids, number), share):
                start = time.perf_counter()
                client.request(method, path, **arguments).raise_for_status()
                seconds.append(time.perf_counter() - start)
        return seconds

    times, memory = list[float](), [held_memory(process)]
    with ThreadPoolExecutor(clients) as pool:
        for quarter in range(4):
            sent = [pool.submit(send, clients * quarter + n, -(-count // (4 * clients))) for n in range(clients)]
            times += [each for future in sent for each in future.result()]
            memory.append(held_memory(process))
    return times, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ditf-") as folder:
        ids = make_project(Path(folder), options.images)
        before = load()
        with server() as (address, process):
            displays = first_displays(address, ids)
            start = time.perf_counter()
            times, memory = soak(address, process, ids, options.requests, options.clients)
            seconds = time.perf_counter() - start
        os.chdir(ROOT)
    cuts = statistics.quantiles(times, n=100)
    rows = [
        ("tokens, channels of an image", f"{GRID[1]}x{GRID[0]}, {CHANNELS}"),
        (
            "first display: picture and tokens, median and slowest",
            f"**{1e3 * statistics.median(displays):.0f} ms**, {1e3 * max(displays):.0f} ms",
        ),
        ("requests, clients, errors", f"{len(times):,}, {options.clients}, 0"),
        ("requests per second", f"{len(times) / seconds:.0f}"),
        ("time of a request, p50 and p99", f"**{1e3 * cuts[49]:.0f} ms**, {1e3 * cuts[98]:.0f} ms"),
        (
            f"memory of the server before and after each quarter, with `--memory {MEMORY}`",
            ", ".join(f"{each:.0f} MB" for each in memory),
        ),
        ("load average of the machine before", before),
    ]
    show(f"Explorer ({machine()})", rows)


if __name__ == "__main__":
    main()
