"""Segmentation by a linear probe: it learns, repeats itself, and names what is wrong with a data set."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ditf.datasets.ade20k import ADE20K
from ditf.errors import UserError
from ditf.metrics.classes import confusion, summarize
from ditf.sample.ade20k import build_ade20k
from ditf.segmentation import linear_probe as probe

CLASSES, CHANNELS, GRID = 4, 12, (6, 8)


def scene(item: str, _: np.random.Generator | None = None) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Tokens of classes that a line separates, with noise, and channels of very different sizes."""
    rng = np.random.default_rng(int(item))
    labels = rng.integers(0, CLASSES, GRID[0] * GRID[1]).astype(np.uint8)
    centres = np.random.default_rng(1000).standard_normal((CLASSES, CHANNELS))
    tokens = centres[labels] + 0.3 * rng.standard_normal((len(labels), CHANNELS))
    labels[::9] = 255
    return (tokens * np.logspace(0, 4, CHANNELS)).astype(np.float32), labels


ITEMS = [str(n) for n in range(40)]
TRAINING = probe.ProbeTraining(epochs=12, batch=128, rate=0.02)


def trained(epochs: int = 12, seed: int = 0) -> probe.Probe:
    training = probe.ProbeTraining(epochs, TRAINING.batch, TRAINING.rate, TRAINING.decay, seed)
    return probe.train(ITEMS, scene, CHANNELS, CLASSES, training)


def accuracy(found: probe.Probe) -> float:
    right = []
    for item in map(str, range(100, 110)):
        tokens, labels = scene(item)
        with torch.inference_mode():
            right.append((found(torch.from_numpy(tokens)).argmax(1).numpy() == labels)[labels != 255])
    return float(np.concatenate(right).mean())


def test_it_learns_from_chance_to_the_ceiling() -> None:
    untrained = [accuracy(trained(0, seed)) for seed in range(8)]
    assert np.mean(untrained) < 0.5  # of four classes
    assert accuracy(trained()) > 0.95


def test_equal_seeds_give_equal_probes() -> None:
    one, same, other = (trained(3, seed) for seed in (1, 1, 2))
    assert torch.equal(one.linear.weight, same.linear.weight)
    assert not torch.equal(one.linear.weight, other.linear.weight)


def test_an_interrupted_training_starts_again() -> None:
    images_read: list[str] = []

    class StopError(Exception):
        pass

    def read_until_stopped(item: str, rng: np.random.Generator) -> Any:
        images_read.append(item)
        if len(images_read) == 5 * len(ITEMS) + 7:
            raise StopError
        return scene(item)

    with pytest.raises(StopError):
        probe.train(ITEMS, read_until_stopped, CHANNELS, CLASSES, TRAINING)
    assert torch.equal(probe.train(ITEMS, scene, CHANNELS, CLASSES, TRAINING).linear.weight, trained().linear.weight)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(5, 15), st.integers(5, 17), st.integers(0, 2**32 - 1))
def test_interpolated_pixels_are_those_of_upsampled_logits(
    rows: int, columns: int, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((rows * columns, 3)).astype(np.float32)
    weights = rng.standard_normal((2, 3)).astype(np.float32)
    mask = np.arange(height * width, dtype=np.uint8).reshape(height, width)  # each pixel has a different value
    sampled, pixels = probe.sample_pixels(tokens, mask, (rows, columns), rng)
    logits = torch.from_numpy(tokens @ weights.T).T.reshape(1, 2, rows, columns)
    upsampled = torch.nn.functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    expected = upsampled[0].flatten(1).numpy().T[pixels]
    np.testing.assert_allclose(sampled @ weights.T, expected, atol=1e-4)


def test_random_pixels_cover_the_mask() -> None:
    mask = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    rng, tokens = np.random.default_rng(0), np.zeros((48, 1), np.float32)
    seen = {pixel for _ in range(60) for pixel in probe.sample_pixels(tokens, mask, GRID, rng)[1].tolist()}
    assert seen == set(mask.ravel().tolist())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(4, 12), st.integers(4, 12), st.integers(0, 2**32 - 1))
def test_the_most_frequent_class_is_counted(rows: int, columns: int, height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    counts = [Counter[int]() for _ in range(rows * columns)]
    for y, x in np.ndindex(mask.shape):
        token = int((y + 0.5) * rows / height) * columns + int((x + 0.5) * columns / width)
        counts[token].update([int(mask[y, x])] if mask[y, x] < 3 else [])
    expected = [max(sorted(count), key=lambda each: count[each]) if count else 255 for count in counts]
    assert probe.most_frequent_classes(mask, (rows, columns), 3).tolist() == expected


def test_metrics_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 2]], np.uint8)
    found = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    metrics, rows = summarize([confusion(truth, found, 4)])
    assert [row["class"] for row in rows] == [0, 1, 2]
    assert [row["iou"] for row in rows] == pytest.approx([100 / 3, 200 / 3, 0])
    assert metrics["mIoU"] == pytest.approx(100 / 3)
    assert metrics["pixel accuracy"] == pytest.approx(60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ade") / "root"
    build_ade20k(folder, 0)
    return folder


def dataset(root: Path, **changes: Any) -> ADE20K:
    settings: dict[str, Any] = {"classes": 4} | changes
    return ADE20K(type="ade20k", root=str(root), **settings)


def mask(root: Path) -> Path:
    return root / "annotations/training/training_000.png"


def picture(root: Path) -> Path:
    return root / "images/training/training_000.jpg"


def with_index(root: Path, value: int) -> None:
    pixels = np.array(Image.open(mask(root)))
    pixels[60, 60] = value
    Image.fromarray(pixels).save(mask(root))


def elsewhere(root: Path) -> None:
    picture(root).unlink()
    picture(root).symlink_to("/etc/hostname")


Break = Callable[[Path], Any]
BROKEN: list[tuple[Break, str]] = [
    (lambda r: shutil.rmtree(r / "images"), "has no images"),
    (lambda r: shutil.rmtree(r / "images/validation"), "has no images"),
    (lambda r: mask(r).unlink(), "not found"),
    (lambda r: mask(r).write_bytes(b"x"), "not a readable mask"),
    (lambda r: Image.fromarray(np.ones((12, 16), np.uint8)).save(mask(r)), "16x12, but its image is 160x128"),
    (lambda r: Image.fromarray(np.ones((128, 160, 3), np.uint8)).save(mask(r)), "mode RGB"),
    (lambda r: with_index(r, 9), "has the index 9, but the classes end at 4"),
    (lambda r: picture(r).write_bytes(b"x"), "not a readable image"),
    (lambda r: picture(r).rename(r / "images/training/other.jpg"), "not found"),
    (lambda r: elsewhere(r), "not a readable image"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_what_is_wrong_is_named(made: Path, tmp_path: Path, number: int) -> None:
    shutil.copytree(made, tmp_path / "root")
    dataset(tmp_path / "root").read()
    damage, expected = BROKEN[number]
    damage(tmp_path / "root")
    with pytest.raises(UserError) as caught:
        dataset(tmp_path / "root").read()
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value).split("\n")[0]
