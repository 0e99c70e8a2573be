"""Batches of pixels for training."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemmodel.core import params
from gemmodel.train import batches
from gemmodel.train.batches import TrainingData

Settings = Callable[..., params.Params]
ORIENTATION, ROTATED = 0x0112, 6


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Returns a folder of photos of which one in two is to be turned upright."""
    rng = np.random.default_rng(3)
    for part, photos in (("train", 7), ("val", 3)):
        for gem in "ab":
            (folder := tmp_path / "split" / part / gem).mkdir(parents=True)
            for i in range(photos):
                exif = Image.Exif()
                exif[ORIENTATION] = ROTATED if i % 2 else 1
                pixels = Image.fromarray(rng.integers(0, 256, (40, 24, 3), np.uint8))
                pixels.save(folder / f"{i}.jpg", exif=exif)
    return tmp_path / "split"


def load(split: Path, settings: params.Params) -> TrainingData:
    return batches.load_training_data(
        settings.train, settings.augment, base=settings.base, split=split, augmentation_source="on_the_fly",
        scratch=split / "scratch",
    )  # fmt: skip


def contents(data: TrainingData) -> list[bytes]:
    """Returns the bytes of all batches of two epochs."""
    found = []
    for epoch in (0, 1):
        data.reseed.on_epoch_begin(epoch)
        found += [array.numpy().tobytes() for part in (data.train, data.val) for batch in part for array in batch]
    return found


@pytest.mark.parametrize("in_memory", [False, True])
def test_each_photo_is_fitted_to_its_given_probabilities(
    split: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(batches, "MAX_CACHED_BYTES", 0)
    values = settings({"base.image_size": 32, "train.batch_size": 4})
    given = np.random.default_rng(1).dirichlet((1, 1), 14)
    data = batches.load_training_data(
        values.train, values.augment, base=values.base, split=split, augmentation_source="none", targets=given,
        scratch=split / "scratch",
    )  # fmt: skip
    photos = [photo.tobytes() for pixels, _ in data.train_plain for photo in pixels.numpy()]
    expected = dict(zip(photos, given.astype(np.float32).tolist(), strict=True))
    found = [pair for pixels, y in data.train for pair in zip(pixels.numpy(), y.numpy().tolist(), strict=True)]
    assert {photo.tobytes(): probs for photo, probs in found} == expected
    assert len(found) == len(expected) == 14


@pytest.mark.parametrize("disk_is_full", [False, True])
def test_more_photos_than_fit_into_memory_give_the_same_batches(
    split: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    disk_is_full: bool,
) -> None:  # fmt: skip
    # One batch: without base.deterministic several may come in any order.
    values = settings({"base.image_size": 32, "train.batch_size": 16})
    in_memory = contents(load(split, values))
    monkeypatch.setattr(batches, "MAX_CACHED_BYTES", 0)
    if disk_is_full:

        def pwrite(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", pwrite)
    data = load(split, values)
    assert contents(data) == in_memory
    assert int(data.train.cardinality()) == int(data.val.cardinality()) == 1
    assert capsys.readouterr().out.count("its disk is full") == disk_is_full
    assert not any((split / "scratch").iterdir())
    if not disk_is_full:  # no photo is decoded a second time
        for path in split.rglob("*.jpg"):
            path.unlink()
        assert contents(data) == in_memory
