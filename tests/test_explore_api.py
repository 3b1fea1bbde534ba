"""The explorer's API: its answers are the library's, and nothing that a client sends does harm."""

import io
import json
import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from PIL import Image

import ditf
from ditf.config.params import load_params
from ditf.data.tables import read_table
from ditf.errors import UserError
from ditf.explore import uploads
from ditf.explore.app import make_app
from ditf.explore.jobs import BusyError, Job, JobQueue
from ditf.explore.library import Explorer
from ditf.explore.limits import RequestLimits
from ditf.explore.recent import RecentlyUsed
from ditf.features.descriptors import unit
from ditf.features.reader import ImageFeatures
from ditf.metrics.segmentation import evaluate_frame
from tests.conftest import BLOCK, Project, inside

HOST = "http://127.0.0.1"
SOURCE, TARGET = "cat/cat_00", "cat/cat_01"
VIEW: dict[str, Any] = {"entry": "spair-flux", "block": BLOCK, "descriptor": "adaln+discard"}
VIDEO = {"task": "davis-flux", "descriptor": "adaln+discard"}
SEQUENCE = "three-turn"


@pytest.fixture(scope="module")
def client(finished: Project) -> Iterator[TestClient]:
    """A client of the explorer of the finished project."""
    with inside(finished.folder):
        app = make_app(Explorer(load_params()), ditf.__version__, ["127.0.0.1"])
        with TestClient(app, base_url=HOST) as client:
            yield client


def features_of(project: Project, image: str) -> ImageFeatures:
    return ditf.open_store(project.folder / "cache/features/spair-flux").features(BLOCK, image)


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


def read_mask(data: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(data)))


def photo(seed: int = 0) -> bytes:
    """A picture that is in no data set."""
    return png(np.random.default_rng(seed).integers(0, 255, (96, 128, 3)))


def finish(client: TestClient, job: str) -> dict[str, Any]:
    """Wait until a job ends."""
    for _ in range(600):
        state: dict[str, Any] = client.get(f"/api/jobs/{job}").json()
        if state["state"] not in ("waiting", "running"):
            return state
        time.sleep(0.1)
    raise AssertionError(state)


def upload(client: TestClient, data: bytes, **fields: str) -> Any:
    form = {"entry": "spair-flux", **fields}
    return client.post("/api/uploads", data=form, files={"file": ("my photo.png", data)})


def test_the_project_is_described(client: TestClient, finished: Project) -> None:
    answer = client.get("/api/project").json()
    assert [entry["name"] for entry in answer["entries"]] == list(finished.params["features"])
    assert [task["name"] for task in answer["tasks"]] == list(finished.params["tasks"])
    entry = answer["entries"][0]
    store = ditf.open_store(finished.folder / "cache/features/spair-flux")
    assert (entry["revision"], entry["images"], entry["missing"]) == (store.digest, len(store), None)
    assert entry["blocks"] == [{"block": BLOCK, "channels": store.channels(BLOCK), "massive": store.massive(BLOCK)}]
    assert answer["limits"] == {"upload_bytes": uploads.MOST_BYTES, "upload_pixels": uploads.MOST_PIXELS}


def test_tokens_are_unit_descriptors(client: TestClient, finished: Project) -> None:
    features = features_of(finished, SOURCE)
    response = client.get("/api/tokens", params=VIEW | {"image": SOURCE})
    rows, columns = (int(part) for part in response.headers["X-Grid"].split(","))
    assert (rows, columns) == features.grid
    assert tuple(int(part) for part in response.headers["X-Size"].split(",")) == features.size
    expected = features.descriptors("adaln+discard")
    count = expected.size * 2
    tokens = np.frombuffer(response.content[:count], "<f2").reshape(expected.shape)
    np.testing.assert_allclose(tokens, unit(expected), atol=1e-3)
    lengths = np.frombuffer(response.content[count:], "<f4")
    np.testing.assert_allclose(lengths, np.linalg.norm(expected, axis=1), rtol=1e-5)


def test_similarities_and_matches_are_the_librarys(client: TestClient, finished: Project) -> None:
    source, target = features_of(finished, SOURCE), features_of(finished, TARGET)
    points = [(20, 30), (150, 100)]
    where = {"source": SOURCE, "target": TARGET}
    for point in points:
        answer = client.get("/api/similarity", params=VIEW | where | {"x": point[0], "y": point[1]}).json()
        expected = ditf.similarity(source, target, [point], "adaln+discard")[0]
        assert answer["grid"] == list(expected.shape)
        np.testing.assert_allclose(answer["values"], expected.ravel(), atol=1e-5)
    answer = client.post("/api/match", json=VIEW | where | {"points": points}).json()
    for row, match in zip(ditf.match(source, target, points).to_pylist(), answer["matches"], strict=True):
        assert match["point"] == [row["source_x"], row["source_y"]]
        assert match["match"] == [row["target_x"], row["target_y"]]
        assert match["similarity"] == pytest.approx(row["similarity"])


@pytest.mark.parametrize("place", [{"point": [150, 100]}, {"box": [40, 40, 160, 140]}, {}])
def test_hits_are_those_of_the_command(client: TestClient, finished: Project, place: dict[str, list[int]]) -> None:
    flags = {"point": "--at", "box": "--box"}
    where = [part for name, value in place.items() for part in (flags[name], ",".join(map(str, value)))]
    expected = json.loads(
        finished.check("ditf", "search", SOURCE, *where, "--k", "5", "--task", "spair-search", "--json")
    )
    request = {"task": "spair-search", "image": SOURCE, "k": 5, **place}
    hits = client.post("/api/search", json=request).json()["hits"]
    assert [hit["image"] for hit in hits] == [row["image"] for row in expected]
    assert [hit["similarity"] for hit in hits] == pytest.approx([row["similarity"] for row in expected], abs=1e-6)


def test_pictures_are_scaled_down(client: TestClient, finished: Project) -> None:
    response = client.get(f"/api/images/{SOURCE}", params={"entry": "spair-flux", "side": 64})
    assert response.headers["Content-Type"] == "image/jpeg"
    with Image.open(io.BytesIO(response.content)) as image:
        assert max(image.size) == 64
    listed = client.get("/api/images", params={"entry": "spair-flux", "text": "CAT_0", "category": "cat"}).json()
    assert {image["category"] for image in listed["images"]} == {"cat"}
    assert SOURCE in {image["id"] for image in listed["images"]}


def test_videos_have_the_scores_of_the_task(client: TestClient, finished: Project) -> None:
    listed = {each["name"]: each for each in client.get("/api/videos", params=VIDEO).json()["sequences"]}
    tables = finished.folder / "results/davis-flux/tables"
    for row in read_table(tables / "jf_sequences.csv"):
        video = client.get(f"/api/videos/{row['sequence']}", params=VIDEO).json()
        assert listed[row["sequence"]]["scores"]["J&F"] == float(row["J&F-Mean"])
        for short, name in (("J", "J-Mean"), ("F", "F-Mean")):
            scores = [frame[short] for frame in video["frames"] if frame[short] is not None]
            assert np.mean(scores) == pytest.approx(float(row[name]), abs=1e-5)
    frame = video["frames"][3]["name"]
    path = finished.folder / f"results/davis-flux/predictions/adaln+discard/{row['sequence']}/{frame}.png"
    url = f"/api/videos/{row['sequence']}/masks/{frame}"
    assert client.get(url, params=VIDEO).content == path.read_bytes()
    assert client.get(url, params=VIDEO | {"kind": "true"}).content.startswith(b"\x89PNG")


def test_the_first_mask_is_propagated_as_by_the_task(client: TestClient) -> None:
    url = f"/api/videos/{SEQUENCE}/masks"
    first = client.get(f"{url}/00000", params=VIDEO | {"kind": "true"}).content
    form = VIDEO | {"sequence": SEQUENCE}
    started = client.post("/api/propagations", data=form, files={"mask": ("mask.png", first)})
    assert started.status_code == 202, started.text
    job = started.json()["job"]
    state = finish(client, job)
    assert (state["state"], state["done"], state["error"]) == ("done", state["total"], None)
    scored = state["result"]["frames"]
    assert scored == client.get(f"/api/videos/{SEQUENCE}", params=VIDEO).json()["frames"]
    frames = [frame["name"] for frame in scored]
    masks = [client.get(f"/api/jobs/{job}/masks/{frame}").content for frame in frames]
    assert masks == [client.get(f"{url}/{frame}", params=VIDEO).content for frame in frames]
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/api/jobs/{job}/result").content))
    assert archive.namelist() == [f"{SEQUENCE}/{frame}.png" for frame in frames]
    # Fewer sources change the masks.
    fewer = form | {"topk": "1", "n_last_frames": "0"}
    changed = client.post("/api/propagations", data=fewer, files={"mask": ("mask.png", first)}).json()["job"]
    assert finish(client, changed)["state"] == "done"
    assert masks != [client.get(f"/api/jobs/{changed}/masks/{frame}").content for frame in frames]


def test_painted_objects_keep_their_numbers_and_are_scored(client: TestClient, finished: Project) -> None:
    url = f"/api/videos/{SEQUENCE}/masks"
    first = read_mask(client.get(f"{url}/00000", params=VIDEO | {"kind": "true"}).content)
    painted = png(np.where(first == 2, 2, 0))
    form = VIDEO | {"sequence": SEQUENCE}
    job = client.post("/api/propagations", data=form, files={"mask": ("mask.png", painted)}).json()["job"]
    frames = finish(client, job)["result"]["frames"]
    frame = frames[4]["name"]
    mask = read_mask(client.get(f"/api/jobs/{job}/masks/{frame}").content)
    assert set(np.unique(mask)) == {0, 2}
    truth = read_mask(client.get(f"{url}/{frame}", params=VIDEO | {"kind": "true"}).content)
    j, f = evaluate_frame(truth, mask, 2)[1]
    assert (frames[4]["J"], frames[4]["F"]) == pytest.approx((j, f))
    assert (frames[0]["J"], frames[-1]["J"]) == (None, None)
    white = png(np.where(first == 2, 255, 0))
    job = client.post("/api/propagations", data=form, files={"mask": ("mask.png", white)}).json()["job"]
    frames = finish(client, job)["result"]["frames"]
    assert set(np.unique(read_mask(client.get(f"/api/jobs/{job}/masks/{frame}").content))) == {0, 1}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (lambda: png(np.ones((10, 10))), "Resize the mask"),
        (lambda: png(np.zeros((240, 416))), "shows no object"),
        (lambda: photo(), "mode RGB"),
    ],
)
def test_a_wrong_mask_fails_in_one_line(client: TestClient, mask: Callable[[], bytes], message: str) -> None:
    form = VIDEO | {"sequence": SEQUENCE}
    job = client.post("/api/propagations", data=form, files={"mask": ("mask.png", mask())}).json()["job"]
    state = finish(client, job)
    assert state["state"] == "failed"
    assert message in state["error"] and "\n" not in state["error"] and "/tmp" not in state["error"]
    assert client.get(f"/api/jobs/{job}/result").status_code == 404


def test_an_uploaded_image_is_used_like_any_other(client: TestClient, finished: Project) -> None:
    state = finish(client, upload(client, photo()).json()["job"])
    assert state["state"] == "done", state
    image = state["result"]["image"]
    assert image.startswith("upload/")
    # `ditf match` extracts the same features from the same file.
    path = finished.folder.parent / "photo.png"
    path.write_bytes(photo())
    output = finished.check("ditf", "match", str(path), TARGET, "--at", "20,30", "--task", "spair-search", "--json")
    [expected] = json.loads(output)
    request = VIEW | {"source": image, "target": TARGET, "points": [[20, 30]]}
    [match] = client.post("/api/match", json=request).json()["matches"]
    assert match["match"] == expected["match"]
    assert match["similarity"] == pytest.approx(expected["similarity"])
    hits = client.post("/api/search", json={"task": "spair-search", "image": image, "point": [20, 30], "k": 3}).json()
    assert len(hits["hits"]) == 3
    assert client.get("/api/tokens", params=VIEW | {"image": image}).status_code == 200
    assert client.get("/api/channels", params=VIEW | {"image": image}).status_code == 200
    assert client.get("/api/colours", params=VIEW | {"image": image}).status_code == 200
    picture = client.get(f"/api/images/{image}", params={"entry": "spair-flux"}).content
    with Image.open(io.BytesIO(picture)) as shown:
        assert shown.size == (128, 96)
    elsewhere = client.get(f"/api/images/{image}", params={"entry": "photos-flux"})
    assert (elsewhere.status_code, elsewhere.json()["error"]) == (
        404,
        f"{image}: not found among the uploads for photos-flux. Upload the image again.",
    )


def test_an_upload_reports_its_noise_samples(client: TestClient, finished: Project) -> None:
    samples = finished.params["features"]["spair-flux"]["ensemble_size"]
    state = finish(client, upload(client, photo(time.time_ns())).json()["job"])  # an image that is not cached
    assert (state["state"], state["done"], state["total"]) == ("done", samples, samples)


def test_an_uploaded_image_of_the_data_set_is_recognized(client: TestClient, finished: Project) -> None:
    rows = client.get("/api/images", params={"entry": "spair-flux"}).json()["images"]
    root = finished.folder / finished.params["datasets"]["spair"]["root"]
    data = next(root.rglob(f"*/{SOURCE}.*")).read_bytes()
    state = finish(client, upload(client, data).json()["job"])
    assert state["result"] == {"image": SOURCE}
    assert SOURCE in {row["id"] for row in rows}


GET_ERRORS = [
    ("/api/images", {"entry": "nothing"}, 400, "Use spair-flux"),
    ("/api/images", {}, 422, "query.entry: Field required."),
    ("/api/images/none", {"entry": "spair-flux"}, 400, "not an image"),
    ("/api/images/upload/0", {"entry": "spair-flux"}, 404, "Upload the image again"),
    ("/api/tokens", VIEW | {"image": "none"}, 404, "no features of 'none'"),
    ("/api/tokens", VIEW | {"image": SOURCE, "block": BLOCK + 1}, 400, "Use one of them"),
    ("/api/tokens", VIEW | {"image": SOURCE, "descriptor": "best"}, 422, "query.descriptor"),
    ("/api/tokens", VIEW | {"image": SOURCE, "revision": "old"}, 409, "Load the page again"),
    ("/api/similarity", VIEW | {"source": SOURCE, "target": TARGET, "x": 9999, "y": 0}, 400, "outside"),
    ("/api/channels/99999", VIEW | {"image": SOURCE}, 400, "does not exist"),
    ("/api/pairs", {"task": "davis-flux", "descriptor": "adaln"}, 400, "type correspondence"),
    ("/api/pairs", {"task": "spair-flux", "descriptor": "adaln", "sort": "difference"}, 400, "needs `other`"),
    ("/api/videos", {"task": "spair-flux", "descriptor": "adaln"}, 400, "type propagation"),
    ("/api/videos/none", VIDEO, 404, "sequence: 'none' not found. Use"),
    ("/api/videos/" + SEQUENCE, VIDEO | {"descriptor": "adaln"}, 400, "has no masks"),
    (f"/api/videos/{SEQUENCE}/masks/none", VIDEO, 404, "frame: 'none' not found"),
    ("/api/jobs/none", {}, 404, "job none: not found"),
    ("/api/jobs/none/result", {}, 404, "job none: not found"),
    ("/api/nothing", {}, 404, "Not Found"),
]


@pytest.mark.parametrize(("url", "query", "status", "message"), GET_ERRORS)
def test_errors_are_one_line(client: TestClient, url: str, query: dict[str, Any], status: int, message: str) -> None:
    response = client.get(url, params=query)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert message in response.json()["error"] and "\n" not in response.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/../../params.yaml",
        "/api/images/..%2f..%2fparams.yaml",
        "/api/images/%2fetc%2fpasswd",
        "/api/images//etc/passwd",
        "/api/images/%00",
        f"/api/videos/{SEQUENCE}/masks/..%2f..%2fmetrics",
        "/api/videos/..%2f..%2f/masks/00000",
        "/api/jobs/..%2f..%2fparams/result",
        "/../app.py",
        "/..%2fapp.py",
        "/%2e%2e/app.py",
    ],
)
def test_no_path_leaves_its_folder(client: TestClient, path: str) -> None:
    response = client.send(client.build_request("GET", f"{HOST}{path}", params=VIDEO | {"entry": "spair-flux"}))
    assert response.status_code in (400, 404)
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": HOST}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[127.0.0.1"}, 403),
    ],
)
def test_pages_of_other_servers_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    response = client.get("/api/project", headers=headers)
    assert response.status_code == status
    if status == 200:
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    else:
        assert list(response.json()) == ["error"]


def test_a_token_protects_everything(finished: Project) -> None:
    with inside(finished.folder):
        app = make_app(Explorer(load_params()), ditf.__version__, ["127.0.0.1"], "s3cret")
    with TestClient(app, base_url="http://my.host") as client:
        for url in ("/", "/api/project", "/api/openapi.json"):
            assert client.get(url).status_code == 401
            assert client.get(url, params={"token": "süß"}).status_code == 401
            assert client.get(url, headers={"Authorization": "Bearer other"}).status_code == 401
        assert client.get("/api/openapi.json", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/", params={"token": "s3cret"}).status_code == 200
        assert client.get("/api/openapi.json").status_code == 200  # by the cookie


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 400, "not an image"),
        (b"hello", 400, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "not an image"),
        (bomb(8000, 8000), 413, "8000x8000 pixels"),
        (bomb(60000, 60000), 413, "too many pixels"),
        (bytes(uploads.MOST_BYTES + 1), 413, "Upload at most"),
        (bytes(2 * uploads.MOST_BYTES), 413, "Send at most"),
    ],
)
def test_harmful_uploads_are_refused(client: TestClient, data: bytes, status: int, message: str) -> None:
    response = upload(client, data)
    assert response.status_code == status
    assert message in response.json()["error"]


def test_bodies_without_a_length_are_limited(client: TestClient) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 16)

    response = client.post("/api/match", content=body(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.text) == (413, '{"error":"/api/match: Content Too Large."}')


def test_a_damaged_upload_fails_in_one_line(client: TestClient) -> None:
    state = finish(client, upload(client, photo()[:2000]).json()["job"])
    assert state["state"] == "failed"
    assert state["error"].startswith("my_photo.png: not a readable image")


def test_too_many_requests_are_refused() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the request was not refused")

    response = TestClient(RequestLimits(never, most=0)).get("/api/project")
    assert (response.status_code, list(response.json())) == (503, ["error"])


def sleep(seconds: float, report: Callable[[int], object]) -> float:
    report(1)
    time.sleep(seconds)
    return seconds


def die(report: Callable[[int], object]) -> None:
    os._exit(1)


def fail(report: Callable[[int], object]) -> None:
    raise UserError("work: cannot be done. Do something else.")


def wait_for(job: Job, *states: str) -> None:
    for _ in range(300):
        if job.state in states:
            return
        time.sleep(0.1)
    raise AssertionError(job)


def test_jobs_wait_run_and_are_cancelled() -> None:
    queue = JobQueue(waiting=2)
    jobs = [queue.submit(Job("sleep", queue.new_folder(), sleep, (60.0,), ("nap",)))]
    for _ in range(300):
        if jobs[0].done:
            break
        time.sleep(0.1)
    jobs += [queue.submit(Job("sleep", queue.new_folder(), sleep, (60.0,))) for _ in range(2)]
    with pytest.raises(BusyError, match="2 jobs wait already"):
        queue.submit(Job("sleep", queue.new_folder(), sleep, (0.0,)))
    assert [job.state for job in jobs] == ["running", "waiting", "waiting"]
    start = time.monotonic()
    for job in jobs:
        assert queue.cancel(job.id).state == "cancelled"
        assert not job.folder.exists()
    short = queue.submit(Job("sleep", queue.new_folder(), sleep, (0.0,), finish=lambda value: {"slept": value}))
    wait_for(short, "done")
    assert time.monotonic() - start < 30
    assert short.result == {"slept": 0.0}
    for work, message in ((die, "worker process ended"), (fail, "Do something else")):
        job = queue.submit(Job("fault", queue.new_folder(), work, ()))
        wait_for(job, "failed")
        assert job.error and message in job.error
    folder = short.folder
    queue.close()
    assert not folder.exists()
    with pytest.raises(BusyError):
        queue.submit(Job("sleep", folder, sleep, (0.0,)))


def test_the_process_of_jobs_ends_without_work() -> None:
    queue = JobQueue(idle=0.5)
    before = set(multiprocessing.active_children())
    for _ in range(2):  # a new process does the second job
        job = queue.submit(Job("sleep", queue.new_folder(), sleep, (0.0,), finish=lambda value: {"slept": value}))
        wait_for(job, "done")
        for _ in range(100):
            if set(multiprocessing.active_children()) <= before:
                break
            time.sleep(0.1)
        assert set(multiprocessing.active_children()) <= before
    queue.close()


def test_a_full_queue_is_503(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: JobQueue, job: Job) -> Job:
        raise BusyError("8 jobs wait already. Try again when one is finished.")

    monkeypatch.setattr(JobQueue, "submit", refuse)
    response = upload(client, photo())
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "Try again" in response.json()["error"]


def test_old_values_leave_the_memory() -> None:
    cache, made = RecentlyUsed(100), list[str]()

    def value(key: str, size: int) -> None:
        cache.get(key, lambda: made.append(key), lambda _: size)

    for key in ("a", "b", "a", "c", "a", "b"):  # b was used least recently when c came
        value(key, 40)
    assert made == ["a", "b", "c", "b"]
    value("large", 1000)
    assert cache.size == 1000


def test_rebuilt_missing_and_damaged_features_are_noticed(project: Project) -> None:
    store = project.folder / "cache/features/spair-flux"
    with (
        inside(project.folder),
        TestClient(make_app(Explorer(load_params()), "0", ["127.0.0.1"]), base_url=HOST) as client,
    ):

        def entry() -> dict[str, Any]:
            return dict(client.get("/api/project").json()["entries"][0])

        query = VIEW | {"image": SOURCE, "revision": entry()["revision"]}
        assert client.get("/api/tokens", params=query).status_code == 200
        store.rename(store.with_name("old"))
        assert "dvc repro features@spair-flux" in entry()["missing"]
        response = client.get("/api/tokens", params=query)
        assert (response.status_code, "dvc repro" in response.json()["error"]) == (400, True)
        other = project.folder / "cache/features/photos-flux"  # the same settings, other images
        subprocess.run(["cp", "-a", str(other), str(store)], check=True)
        assert entry()["missing"] is None
        assert client.get("/api/tokens", params=query).status_code == 409
        metadata = store / "zarr.json"
        text = metadata.read_text()
        metadata.unlink()  # a hard link of DVC's cache
        metadata.write_text(text.replace("features", "futures"))
        (store / "new").touch()  # DVC replaces the folder, which changes its time, too
        assert "zarr" in entry()["missing"] or "feature store" in entry()["missing"]
        catalog = project.folder / "catalogs/spair"
        catalog.rename(catalog.with_name("away"))
        response = client.get("/api/images", params={"entry": "davis-flux"})
        assert response.status_code == 200
        response = client.get("/api/pairs", params={"task": "spair-flux", "descriptor": "adaln"})
        assert response.status_code == 404 and "dvc repro" in response.json()["error"]


def test_a_missing_package_is_one_line(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditf.cli.explore.find_spec", lambda name: None if name == "uvicorn" else object())
    assert finished.fail("ditf", "serve") == "error: uvicorn: not installed. Run `pip install 'ditf[serve]'`.\n"


def test_ctrl_c_ends_the_server_and_its_work(finished: Project) -> None:
    command = [str(Path(sys.executable).with_name("ditf")), "serve", "--port", "0", "--token", "s3cret"]
    process = subprocess.Popen(
        command,
        cwd=finished.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        start_new_session=True,
    )
    assert process.stdout
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address and address.group().endswith("?token=s3cret")
    url = address.group().partition("?")[0]
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer s3cret"}, timeout=60) as client:
        first = client.get(f"/api/videos/{SEQUENCE}/masks/00000", params=VIDEO | {"kind": "true"}).content
        form = VIDEO | {"sequence": SEQUENCE}
        job = client.post("/api/propagations", data=form, files={"mask": ("mask.png", first)}).json()["job"]
        assert client.get(f"/api/jobs/{job}").json()["state"] in ("waiting", "running")
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the group get it
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert (process.returncode, errors) == (0, "")


@pytest.mark.slow
def test_no_request_causes_an_internal_error(finished: Project) -> None:
    """Random requests by the schema, with names that exist and names that do not."""
    with inside(finished.folder):
        app = make_app(Explorer(load_params()), ditf.__version__, ["127.0.0.1", "localhost", "testserver"])
        schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
        statuses = list[int]()
        for result in schema.get_all_operations():
            operation: Any = result.ok()  # type: ignore[union-attr]

            @given(case=operation.as_strategy())
            @settings(
                max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
            )
            def check(case: Any) -> None:
                for name, value in (VIEW | VIDEO | {"image": SOURCE, "source": SOURCE, "target": TARGET}).items():
                    if name in (case.query or {}) and len(statuses) % 2:
                        case.query[name] = value
                response = case.call()
                statuses.append(response.status_code)
                assert response.status_code < 500 or response.status_code == 503, response.text

            check()
        assert {200, 400, 404, 422} <= set(statuses)
