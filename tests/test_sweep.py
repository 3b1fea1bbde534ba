"""Sweeps: every setting scored as an extraction of its own would be, from as few passes as there can be."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from ditf.backbones.diffusion.denoiser import LoadedDiffusion
from ditf.backbones.families.flux import Flux
from ditf.backbones.source import pin
from ditf.data.catalog import Catalog, texts_of, write_catalog
from ditf.data.subset import choose, write_subset
from ditf.datasets.davis import Davis
from ditf.datasets.spair import SPair
from ditf.errors import UserError
from ditf.features.extract import extract
from ditf.features.job import ExtractionJob, ImageSource
from ditf.features.store import FeatureStore
from ditf.features.text import encode_prompts
from ditf.files import Hashes
from ditf.sample.davis import build_davis
from ditf.sample.spair import build_spair
from ditf.sweep.run import best, sweep
from ditf.tasks.base import Task
from ditf.tasks.correspondence import Correspondence, MatchingSettings, PckSettings
from ditf.tasks.propagation import Propagation, PropagationSettings
from stages.sweep import describe_best

Jobs = dict[int, tuple[list[ImageSource], ExtractionJob]]
TIMESTEPS, BLOCKS, PREFIXES, SIZE = (100, 260), [1, 2, 4], [1, 2], 3


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    build_spair(folder / "spair", 0)
    build_davis(folder / "davis", 0)
    return folder


@pytest.fixture(scope="module")
def pairs(sample: Path, tiny_flux: Path) -> tuple[Catalog, Jobs]:
    """A pair of each of three categories, and what is extracted for it."""
    write_catalog(sample / "pairs", SPair(type="spair", root=str(sample / "spair"), split="val").read())
    whole = Catalog(sample / "pairs")
    part = write_subset(whole, choose(whole, 1, 0)[:3], sample / "part")
    return part, jobs_of(part, sample / "spair", sample / "texts", 96)


def jobs_of(catalog: Catalog, root: Path, texts: Path, side: int) -> Jobs:
    model = pin("flux", "tiny-0", "main", Hashes(None))
    rows = catalog.rows("images")
    columns = ("sha256", "pixels_sha256", "width", "height", "prompt")
    sources = [ImageSource(row["id"], root / row["path"], *(row[name] for name in columns)) for row in rows]
    jobs: Jobs = {}
    for timestep in TIMESTEPS:
        flux = Flux(timestep=timestep, blocks=BLOCKS, ensemble_size=SIZE)
        encode_prompts(texts_of(rows), texts, model, flux, torch.float32, "cpu")
        job = ExtractionJob(model, flux, catalog.resize, side, 0, "float32", texts, "float32", "float32", "cpu", 2)
        jobs[timestep] = (sources, job)
    return jobs


def correspondence() -> Correspondence:
    predict = MatchingSettings(block=0, descriptors=["original", "adaln+discard"])
    return Correspondence(
        type="correspondence", dataset="a", features="a", predict=predict, score=PckSettings(alphas=[0.1, 0.2])
    )


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Noise samples that went through the model, by timestep."""
    counted: Counter[int] = Counter()
    before = LoadedDiffusion.features

    def count(self: Any, latents: torch.Tensor, text: Any) -> Any:
        counted[self.settings.timestep] += len(latents)
        return before(self, latents, text)

    monkeypatch.setattr(LoadedDiffusion, "features", count)
    return counted


def test_every_setting_is_scored_as_an_extraction_of_its_own(
    pairs: tuple[Catalog, Jobs], samples: Counter[int], tmp_path: Path
) -> None:
    catalog, jobs = pairs
    table = sweep(tmp_path / "sweep", correspondence(), catalog, jobs, PREFIXES)
    assert samples == dict.fromkeys(TIMESTEPS, len(catalog.rows("images")) * SIZE)
    rows = {
        tuple(row[k] for k in ("timestep", "block", "ensemble_size", "descriptor")): row for row in table.to_pylist()
    }
    assert len(rows) == len(TIMESTEPS) * len(BLOCKS) * 3 * 2 == len(table)
    for timestep, block, size in ((100, 1, 3), (260, 2, 1), (260, 4, 2)):
        sources, job = jobs[timestep]
        flux = Flux(timestep=timestep, blocks=[block], ensemble_size=size)
        own = tmp_path / f"{timestep}-{block}-{size}"
        store = FeatureStore(extract(own, sources, replace(job, backbone=flux)).path)
        task = correspondence()
        task = task.model_copy(update={"predict": task.predict.model_copy(update={"block": block})})
        task.make_predictions(store, catalog, own / "predictions", None)
        expected = task.compute_metrics(catalog, own / "predictions", own / "tables").metrics
        for descriptor, metrics in expected.items():
            row = rows[timestep, block, size, descriptor]
            assert {name: row[name] for name in metrics} == pytest.approx(metrics, abs=1.5)  # a keypoint at most
            assert row["massive"] == store.massive(block)
            assert row["low"] is None or row["low"] <= row["point@0.1"] + 1.5


def test_an_interrupted_sweep_goes_on_with_the_images_that_are_missing(
    pairs: tuple[Catalog, Jobs], samples: Counter[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, jobs = pairs
    sources, job = jobs[260]
    broken = [*sources[:-1], replace(sources[-1], sha256="0" * 64)]
    with pytest.raises(UserError):
        sweep(tmp_path, correspondence(), catalog, {100: jobs[100], 260: (broken, job)}, PREFIXES)
    assert not (tmp_path / "t100").exists()
    before = Counter(samples)
    finished = sweep(tmp_path, correspondence(), catalog, jobs, PREFIXES)
    assert samples[100] == before[100]
    assert samples[260] <= before[260] + SIZE * 4
    assert samples[260] < 2 * SIZE * len(sources)
    assert finished.equals(sweep(tmp_path, correspondence(), catalog, jobs, PREFIXES))
    assert samples[260] < 2 * SIZE * len(sources)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


def test_propagation_over_blocks_and_timesteps(sample: Path, tiny_flux: Path, tmp_path: Path) -> None:
    write_catalog(tmp_path / "whole", Davis(type="davis", root=str(sample / "davis")).read())
    whole = Catalog(tmp_path / "whole")
    part = write_subset(whole, ["one-disc"], tmp_path / "part")
    assert [row["sequence"] for row in part.rows("sequences")] == ["one-disc"]
    assert {row["id"] for row in part.rows("masks")} <= {row["id"] for row in part.rows("images")}
    task = Propagation(type="propagation", dataset="a", features="a", predict=PropagationSettings(block=0))
    jobs = jobs_of(part, sample / "davis", tmp_path / "texts", 160)
    table = sweep(tmp_path / "sweep", task, part, {260: jobs[260]}, [])
    assert table["block"].to_pylist() == BLOCKS
    assert all(0 < value <= 1 for value in table["J&F"].to_pylist())


def test_the_best_is_of_the_largest_ensemble() -> None:
    row = {"timestep": 100, "block": 3, "descriptor": "adaln", "massive": [], "low": 40.0, "high": 70.0}
    rows = [
        row | {"ensemble_size": 1, "m": 90.0},
        row | {"ensemble_size": 2, "m": 50.0},
        row | {"ensemble_size": 1, "m": 10.0, "block": 4},
        row | {"ensemble_size": 2, "m": 60.0, "block": 4},
    ]
    setting = best(pa.Table.from_pylist(rows[::-1]), "m")
    assert setting.row == rows[3]
    assert setting.curve == rows[2:]
    assert setting.ties == []
    assert setting.close == [rows[1]]


def test_settings_that_are_as_good_as_the_best_are_reported() -> None:
    row = {"timestep": 100, "descriptor": "adaln", "ensemble_size": 2, "low": 40.0, "high": 70.0}
    values = {3: 60.0, 4: 60.0, 5: 41.0, 6: 39.0}
    setting = best(pa.Table.from_pylist([row | {"block": block, "m": value} for block, value in values.items()]), "m")
    assert setting.row["block"] == 3
    assert [tied["block"] for tied in setting.ties] == [4]
    assert [close["block"] for close in setting.close] == [5]
    assert describe_best(setting, "m").splitlines() == [
        "best: t = 100, block 3, adaln (m 60, 95 % interval 40 to 70)",
        "the same value: t = 100, block 4, adaln",
        "within this interval: 1 more settings. A larger subset may tell them apart.",
    ]


def test_a_subset_is_chosen_by_seed_and_by_category(sample: Path, pairs: tuple[Catalog, Jobs]) -> None:
    whole = Catalog(sample / "pairs")
    chosen = choose(whole, 2, 0)
    by_category = Counter(row["category"] for row in whole.rows("pairs") if row["pair"] in chosen)
    assert set(by_category.values()) == {2}
    assert chosen == choose(whole, 2, 0)
    assert chosen != choose(whole, 2, 1)
    with pytest.raises(UserError, match="nothing"):
        choose(whole, ["nothing"], 0)


def test_tasks_have_their_headline_among_their_metrics() -> None:
    assert correspondence().headline == "point@0.1"
    assert issubclass(Correspondence, Task)


def test_a_part_holds_nothing_of_an_earlier_one(sample: Path, pairs: tuple[Catalog, Jobs], tmp_path: Path) -> None:
    whole = Catalog(sample / "pairs")
    (tmp_path / "part").mkdir()
    (tmp_path / "part/sequences.parquet").write_bytes(b"of a data set of videos")
    part = write_subset(whole, choose(whole, 1, 0), tmp_path / "part")
    assert not part.has("sequences") and len(part.rows("pairs")) == len(choose(whole, 1, 0))
