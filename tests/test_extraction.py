"""Extraction: what determines features, what is computed how often, and what an interruption leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ditf
from ditf.backbones.diffusion.latents import LatentEncoder
from ditf.backbones.families.flux import Flux
from ditf.backbones.source import pin
from ditf.errors import UserError
from ditf.features.extract import extract, resume_store
from ditf.features.extractor import Extractor
from ditf.features.job import ExtractionJob, ImageSource
from ditf.features.store import FeatureStore
from ditf.features.store_writer import BlockFeatures
from ditf.features.text import encode_prompts, file_name, load_text
from ditf.files import Hashes
from tests.conftest import contents

FLUX = Flux(timestep=260, blocks=[1, 3], ensemble_size=3)


def images(folder: Path, count: int) -> list[ImageSource]:
    """Images of different sizes, each with its own prompt but for the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for i in range(count):
        path = folder / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 255, (40 + 8 * i, 70, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        sources.append(ImageSource.from_file(str(i), path, f"photo {min(i, count - 2)}"))
    return sources


@pytest.fixture(scope="module")
def job(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> ExtractionJob:
    """A job of the tiny FLUX, with its prompts encoded."""
    return make_job(tmp_path_factory.mktemp("texts"))


def make_job(texts: Path) -> ExtractionJob:
    model = pin("flux", "tiny-0", "main", Hashes(None))
    encode_prompts([f"photo {i}" for i in range(6)], texts, model, FLUX, torch.float32, "cpu")
    return ExtractionJob(model, FLUX, "longer", 64, 0, "float16", texts, "float32", "float32", "cpu", 2)


def features_of(job: ExtractionJob, source: ImageSource, **changes: Any) -> dict[int, BlockFeatures]:
    pixels = np.array(Image.open(source.path).resize((64, 48)))
    return replace(job, **changes).load().features(pixels, load_text(job.texts, source.prompt), source.pixels_sha256)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_features_do_not_depend_on_the_batch_size(job: ExtractionJob, tmp_path: Path, batch_size: int) -> None:
    (source, _) = images(tmp_path, 2)
    one, other = features_of(job, source, batch_size=3), features_of(job, source, batch_size=batch_size)
    for block in FLUX.blocks:
        scale = np.abs(one[block][0]).max()
        np.testing.assert_allclose(other[block][0], one[block][0], atol=1e-6 * scale)
        np.testing.assert_allclose(other[block][1], one[block][1], atol=1e-6)  # type: ignore[arg-type]


def test_several_blocks_at_once_equal_each_alone(job: ExtractionJob, tmp_path: Path) -> None:
    (source, _) = images(tmp_path, 2)
    both = features_of(job, source)
    for block in FLUX.blocks:
        found = features_of(job, source, backbone=FLUX.model_copy(update={"blocks": [block]}))
        np.testing.assert_array_equal(found[block][0], both[block][0])
        np.testing.assert_array_equal(found[block][1], both[block][1])


def test_the_ensemble_is_a_mean_of_noise_samples_and_the_seed_matters(job: ExtractionJob, tmp_path: Path) -> None:
    (source, _) = images(tmp_path, 2)
    one, two = (
        features_of(job, source, backbone=FLUX.model_copy(update={"ensemble_size": n}), batch_size=1)[3][0]
        for n in (1, 2)
    )
    assert np.abs(one - two).max() > 0.01
    assert np.abs(features_of(job, source, seed=1)[3][0] - features_of(job, source)[3][0]).max() > 0.01


def test_shared_noise_is_the_same_for_all_images(job: ExtractionJob, tmp_path: Path) -> None:
    source, other = images(tmp_path, 2)
    renamed = replace(source, pixels_sha256=other.pixels_sha256)
    features = [
        [features_of(replace(job, noise=n), s)[3][0] for s in (source, renamed)] for n in ("per-image", "shared")
    ]
    assert np.abs(features[0][0] - features[0][1]).max() > 0.01
    np.testing.assert_array_equal(features[1][0], features[1][1])
    assert replace(job, noise="shared").extraction_config != job.extraction_config


def test_bytes_do_not_depend_on_the_order_of_the_images(job: ExtractionJob, tmp_path: Path) -> None:
    sources = images(tmp_path, 3)
    one, other = (FeatureStore(extract(tmp_path / n, s, job).path) for n, s in (("a", sources), ("b", sources[::-1])))
    for source in sources:
        np.testing.assert_array_equal(one.tokens(3, source.id), other.tokens(3, source.id))


@pytest.mark.parametrize("most_files", [100, 3])
def test_the_vae_encodes_each_image_once(
    job: ExtractionJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_files: int
) -> None:
    monkeypatch.setattr("ditf.features.store_writer.MOST_FILES", most_files)
    calls: list[tuple[int, ...]] = []
    original = LatentEncoder.encode

    def counted(self: LatentEncoder, pixels: torch.Tensor) -> Any:
        calls.append(tuple(pixels.shape))
        return original(self, pixels)

    monkeypatch.setattr(LatentEncoder, "encode", counted)
    assert extract(tmp_path / "store", images(tmp_path, 3), job).computed == 3
    assert len(calls) == 3


def test_added_images_alone_are_extracted(job: ExtractionJob, tmp_path: Path) -> None:
    sources = images(tmp_path, 4)
    before = extract(tmp_path / "a", [sources[1], sources[3]], job)
    assert before.computed == 2
    after = extract(tmp_path / "b", sources, job, reuse=[before.path])
    assert after.computed == 2
    fresh = extract(tmp_path / "c", sources, job)
    assert contents(after.path) == contents(fresh.path)


def test_what_cannot_be_read_is_computed(job: ExtractionJob, tmp_path: Path) -> None:
    sources = images(tmp_path, 4)
    whole = extract(tmp_path / "a", sources, job)
    shutil.copytree(whole.path, tmp_path / "damaged")
    FeatureStore(tmp_path / "damaged").chunk_path("block3/tokens", 2).write_bytes(b"damaged")
    (tmp_path / "nothing").mkdir()
    again = extract(tmp_path / "b", sources, job, reuse=[tmp_path / "nothing", tmp_path / "damaged"])
    assert again.computed == 1
    assert contents(again.path) == contents(whole.path)


@pytest.mark.parametrize("change", [{"seed": 1}, {"dtype": "bfloat16"}, {"text_dtype": "bfloat16"}, {"img_size": 80}])
def test_stores_of_other_settings_are_not_reused(job: ExtractionJob, tmp_path: Path, change: dict[str, Any]) -> None:
    sources = images(tmp_path, 2)
    before = extract(tmp_path / "a", sources, job)
    assert extract(tmp_path / "b", sources, replace(job, **change), reuse=[before.path]).computed == 2


def test_stores_of_other_library_versions_are_not_reused(
    job: ExtractionJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = images(tmp_path, 2)
    before = extract(tmp_path / "a", sources, job)
    monkeypatch.setattr("ditf.provenance.version", lambda name: "0.0.1")
    assert extract(tmp_path / "b", sources, job, reuse=[before.path]).computed == 2
    attributes = FeatureStore(tmp_path / "b/store.zarr").attributes
    assert attributes["extraction_config"]["torch"] == "0.0.1"


def test_a_finished_store_needs_no_model(job: ExtractionJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = images(tmp_path, 2)
    extract(tmp_path / "a", sources, job)

    def never(self: ExtractionJob) -> Extractor:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(ExtractionJob, "load", never)
    assert extract(tmp_path / "a", sources, job).computed == 0
    assert extract(tmp_path / "b", sources[::-1], job, reuse=[tmp_path / "a/store.zarr"]).computed == 0


@pytest.mark.parametrize("most_files", [100, 6])
def test_a_killed_extraction_resumes_to_the_same_bytes(
    job: ExtractionJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_files: int
) -> None:
    script = """
import sys
from pathlib import Path
from ditf.features import store_writer
from tests import test_extraction as t
store_writer.MOST_FILES = int(sys.argv[4])
t.extract(Path(sys.argv[1]), t.images(Path(sys.argv[2]), 6), t.make_job(Path(sys.argv[3])))
"""
    monkeypatch.setattr("ditf.features.store_writer.MOST_FILES", most_files)
    root, folder = Path(__file__).parents[1], tmp_path / "killed"
    tokens = folder / "store.zarr/block3/tokens"
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "images"), str(job.texts), str(most_files)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while len(list(tokens.glob("c.*[0-9]"))) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    sources = images(tmp_path / "images", 6)
    resumed = extract(folder, sources, job)
    assert 0 <= resumed.computed <= 4
    assert contents(resumed.path) == contents(extract(tmp_path / "whole", sources, job).path)


@pytest.mark.parametrize(
    ("chunk", "computed"), [("block3/tokens/c.2.0.0", 1), ("block1/modulation/c.2.0.0.0", 1), ("block1/statistics", 0)]
)
def test_a_store_without_some_chunks_is_completed(
    job: ExtractionJob, tmp_path: Path, chunk: str, computed: int
) -> None:
    sources = images(tmp_path / "images", 4)  # the last two have the same prompt
    store = extract(tmp_path / "a", sources, job).path
    complete = contents(store)
    for path in [store / chunk] if (store / chunk).is_file() else list((store / chunk).glob("c.*")):
        path.unlink()
    resume_store(tmp_path / "b", store)
    again = extract(tmp_path / "b", sources, job)
    assert again.computed == computed
    assert contents(again.path) == complete


def test_an_unreadable_image_keeps_what_was_done(job: ExtractionJob, tmp_path: Path) -> None:
    sources = images(tmp_path / "images", 4)
    whole = sources[2].path.read_bytes()
    sources[2].path.unlink()
    with pytest.raises(UserError, match=r"2\.png: not found"):
        extract(tmp_path / "a", sources, job)
    sources[2].path.write_bytes(whole)
    assert extract(tmp_path / "a", sources, job).computed < 4


def test_an_image_replaced_since_the_catalog_is_refused(job: ExtractionJob, tmp_path: Path) -> None:
    sources = images(tmp_path / "images", 3)
    Image.new("RGB", (70, 48), "red").save(sources[1].path)
    with pytest.raises(UserError, match=r"1\.png: changed since the catalog was made"):
        extract(tmp_path / "a", sources, job)


def test_encoded_prompts_are_the_same_bytes_whenever_they_are_made(tmp_path: Path) -> None:
    model, prompts = pin("flux", "tiny-0", "main", Hashes(None)), [f"photo {number}" for number in range(12)]
    for name in ("one", "two"):
        encode_prompts(prompts, tmp_path / name, model, FLUX, torch.float32, "cpu")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_each_distinct_prompt_is_encoded_once(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    class Counted(Flux):
        def encode_prompts(self, model: Any, prompts: Iterable[str], *more: Any) -> Iterator[dict[str, torch.Tensor]]:
            prompts = list(prompts)
            asked.append(prompts)
            return super().encode_prompts(model, prompts, *more)

    model = pin("flux", "tiny-0", "main", Hashes(None))

    def encode(*prompts: str) -> int:
        return encode_prompts(prompts, tmp_path, model, Counted(), torch.float32, "cpu")

    assert encode("a cat", "a dog", "a cat") == 2
    assert encode("a dog") == 0
    assert encode("a dog", "a bus") == 1
    assert asked == [["a cat", "a dog"], ["a bus"]]
    cat = load_text(tmp_path, "a cat")
    assert {name: tuple(tensor.shape) for name, tensor in cat.items()} == {"prompt_embeds": (32, 32), "pooled": (24,)}
    assert not torch.equal(cat["prompt_embeds"], load_text(tmp_path, "a dog")["prompt_embeds"])
    with pytest.raises(UserError, match="'a tree' is not encoded"):
        load_text(tmp_path, "a tree")
    path = tmp_path / file_name("a cat")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        load_text(tmp_path, "a cat")
    assert encode("a cat", "a dog") == 1  # what is damaged is encoded again
    assert torch.equal(load_text(tmp_path, "a cat")["prompt_embeds"], cat["prompt_embeds"])


def test_an_extractor_in_a_notebook_gives_what_a_store_holds(job: ExtractionJob, tmp_path: Path) -> None:
    (source, other) = images(tmp_path, 2)
    store = ditf.open_store(extract(tmp_path / "a", [source, other], job).path)
    extractor = ditf.Extractor.from_pretrained(
        "tiny-0", block=3, timestep=260, ensemble_size=3, img_size=64, batch_size=2
    )
    found = extractor(source.path, prompt=source.prompt)
    kept = store.features(3, source.id)
    assert (found.grid, found.size) == (kept.grid, kept.size)
    np.testing.assert_allclose(found.tokens, kept.tokens, rtol=1e-3, atol=0.2)
    np.testing.assert_allclose(found.modulation, kept.modulation, atol=1e-5)  # type: ignore[arg-type]
    matches = ditf.match(found, extractor(Image.open(other.path)), points=[(10, 20), (69, 39)])
    assert matches.column_names == ["source_x", "source_y", "target_x", "target_y", "similarity"]
    with pytest.raises(UserError, match=r"outside the source image. Give pixels from \(0, 0\) to \(69, 39\)"):
        ditf.match(found, found, points=[(70, 0)])
    with pytest.raises(UserError, match=r"timestep: .*less than or equal to 1000"):
        ditf.Extractor.from_pretrained("tiny-0", timestep=2000)
