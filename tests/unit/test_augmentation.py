"""Augmented copies: the same each time, of the colours that the photo has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from gemmodel.data import augmentation
from gemmodel.params import Params

Draw = Callable[..., Image.Image]
Settings = Callable[..., Params]
NONE = {f"augment.{name}": 0 for name in ("rotation", "shift", "shear", "zoom")} | {"augment.horizontal_flip": False}


def pixels(draw: Draw, number: int = 4) -> np.ndarray:
    return np.stack([np.asarray(draw(seed, size=(32, 32)), np.float32) for seed in range(number)])


def copies(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


@pytest.fixture
def augment(tmp_path: Path, draw: Draw, settings: Settings) -> Callable[..., dict[str, bytes]]:
    """Write copies of drawn photos, given as seeds by class, and return them by path."""

    def written(photos: dict[str, list[int]], out: str, changes: dict[str, Any], *, seed: int = 1) -> dict[str, bytes]:
        train = tmp_path / f"train-{out}"
        for name, seeds in photos.items():
            (train / name).mkdir(parents=True)
            for number in seeds:
                draw(number, size=(48, 48)).save(train / name / f"photo{number}.jpg")
        params = settings(changes).augment
        counts = augmentation.augment(train, tmp_path / out, params, image_size=32, seed=seed)
        found = copies(tmp_path / out)
        assert counts == {name: sum(path.startswith(f"{name}/") for path in found) for name in photos}
        return found

    return written


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_each_class_gets_its_number_of_copies_spread_over_its_photos(augment: Any, tmp_path: Path, number: int) -> None:
    written = augment({"Agate": [1, 2, 3], "Ruby": [4]}, "out", {"augment.images_per_class": number})
    assert len(written) == 2 * number
    of_photo = [sum(path.startswith(f"Agate/photo{seed}_") for path in written) for seed in (1, 2, 3)]
    assert max(of_photo) - min(of_photo) <= 1
    assert len(set(written.values())) == 2 * number
    for path in written:
        with Image.open(tmp_path / "out" / path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (32, 32))


def test_the_same_seed_gives_the_same_bytes(augment: Any) -> None:
    photos, changes = {"Agate": [1, 2], "Ruby": [3]}, {"augment.images_per_class": 4}
    first = augment(photos, "first", changes)
    assert augment(photos, "second", changes) == first
    other = augment(photos, "third", changes, seed=2)
    assert all(other[path] != content for path, content in first.items())


def test_a_new_photo_changes_no_other_copy(augment: Any) -> None:
    few = augment({"Ruby": [1, 2]}, "few", {"augment.images_per_class": 8})
    more = augment({"Agate": [9], "Ruby": [1, 2, 3, 4]}, "more", {"augment.images_per_class": 8})
    both = set(few) & set(more)
    assert both == {f"Ruby/photo{photo}_{number}.jpg" for photo in (1, 2) for number in (0, 1)}
    assert {path: few[path] for path in both} == {path: more[path] for path in both}


def test_nothing_changes_where_all_is_off(augment: Any, tmp_path: Path, draw: Draw) -> None:
    augment({"Ruby": [1]}, "out", NONE | {"augment.images_per_class": 1})
    with Image.open(tmp_path / "train-out" / "Ruby" / "photo1.jpg") as photo:
        expected = np.asarray(photo.resize((32, 32), Image.Resampling.BICUBIC), float)
    with Image.open(tmp_path / "out" / "Ruby" / "photo1_0.jpg") as copy:
        assert np.abs(np.asarray(copy, float) - expected).mean() < 3


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.data"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment.vertical_flip": True},
        NONE | {"augment.vertical_flip": True},
        NONE | {"augment.rotation": 180},
        NONE | {"augment.shift": 0.5},
        NONE | {"augment.shear": 1},
        NONE | {"augment.zoom": 0.9},
    ],
    ids=["default", "flips", "vertical", "rotation", "shift", "shear", "zoom"],
)
def test_copies_keep_shape_range_and_colour(
    draw: Draw, settings: Settings, changes: dict[str, Any], graph: bool
) -> None:
    model = augmentation.augmenter(settings(changes).augment, seed=5)
    plain = np.broadcast_to(np.float32([200, 30, 90]), (4, 32, 32, 3))
    for given in (pixels(draw), plain):
        if graph:
            data = tf.data.Dataset.from_tensor_slices(given).batch(4).map(lambda x: model(x, training=True))
            changed = next(iter(data)).numpy()
        else:
            changed = np.asarray(model(given, training=True))
        assert (changed.shape, changed.dtype) == (given.shape, np.float32)
        assert changed.min() >= given.min() - 1e-3
        assert changed.max() <= given.max() + 1e-3
        assert np.abs(changed - given).max() > 1 or given is plain
    np.testing.assert_allclose(changed, plain, atol=1e-2)


def test_a_flip_is_a_mirror_image(draw: Draw, settings: Settings) -> None:
    given = pixels(draw, 16)
    model = augmentation.augmenter(settings(NONE | {"augment.horizontal_flip": True}).augment, seed=1)
    changed = np.asarray(model(given, training=True))
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(changed, given, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(changed, given, strict=True)]
    assert any(flipped)
    assert any(kept)
    assert sum(flipped) + sum(kept) == len(given)


def test_the_mean_colour_survives(draw: Draw, settings: Settings) -> None:
    given = np.stack([np.asarray(draw(seed, size=(32, 32), tint=(1, 0.5, 0.2)), np.float32) for seed in range(32)])
    changed = np.asarray(augmentation.augmenter(settings().augment, seed=3)(given, training=True))
    np.testing.assert_allclose(changed.mean(axis=(0, 1, 2)), given.mean(axis=(0, 1, 2)), rtol=0.05)
    ratio = changed.mean(axis=(1, 2)) / changed.mean(axis=(1, 2, 3))[:, None]
    np.testing.assert_allclose(ratio, given.mean(axis=(1, 2)) / given.mean(axis=(1, 2, 3))[:, None], rtol=0.03)


def test_nothing_changes_outside_of_training(draw: Draw, settings: Settings) -> None:
    given = pixels(draw)
    model = augmentation.augmenter(settings().augment, seed=5)
    np.testing.assert_array_equal(np.asarray(model(given, training=False)), given)
    np.testing.assert_array_equal(model.predict(given, verbose=0), given)
