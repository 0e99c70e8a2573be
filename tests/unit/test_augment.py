"""Augmented copies: the same each time, in the colours of the photo."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from gemmodel.core import image_folder
from gemmodel.core.params import Params
from gemmodel.images import augment, decode
from gemmodel.train import augmentation
from gemmodel.train.batches import load_training_data

Draw = Callable[..., Image.Image]
Settings = Callable[..., Params]
NONE = {f"augment.{name}": 0 for name in ("rotation", "shift", "shear", "zoom")} | {"augment.horizontal_flip": False}


def pixels(draw: Draw, count: int = 4) -> np.ndarray:
    return np.stack([np.asarray(draw(seed, size=(32, 32)), np.float32) for seed in range(count)])


def copies(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


@pytest.fixture
def write_copies(tmp_path: Path, draw: Draw, settings: Settings) -> Callable[..., dict[str, bytes]]:
    """Write copies of drawn photos, given as seeds by class, and return them by path."""

    def write(photos: dict[str, list[int]], out: str, changes: dict[str, Any], *, seed: int = 1) -> dict[str, bytes]:
        train = tmp_path / f"train-{out}"
        for name, seeds in photos.items():
            (train / name).mkdir(parents=True)
            for photo in seeds:
                draw(photo, size=(48, 48)).save(train / name / f"photo{photo}.jpg")
        params = settings(changes).augment
        counts = augment.write_copies(train, tmp_path / out, params, image_size=32, seed=seed)
        written = copies(tmp_path / out)
        assert counts == {name: sum(path.startswith(f"{name}/") for path in written) for name in photos}
        return written

    return write


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_copies_of_a_class_are_distributed_over_its_photos(write_copies: Any, tmp_path: Path, count: int) -> None:
    written = write_copies({"Agate": [1, 2, 3], "Ruby": [4]}, "out", {"augment.images_per_class": count})
    assert len(written) == 2 * count
    copies_by_photo = [sum(path.startswith(f"Agate/photo{seed}_") for path in written) for seed in (1, 2, 3)]
    assert max(copies_by_photo) - min(copies_by_photo) <= 1
    assert len(set(written.values())) == 2 * count
    for path in written:
        with Image.open(tmp_path / "out" / path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (32, 32))


def test_the_same_seed_gives_the_same_bytes(write_copies: Any) -> None:
    photos, changes = {"Agate": [1, 2], "Ruby": [3]}, {"augment.images_per_class": 4}
    first = write_copies(photos, "first", changes)
    assert write_copies(photos, "second", changes) == first
    other = write_copies(photos, "third", changes, seed=2)
    assert all(other[path] != content for path, content in first.items())


def test_a_new_photo_changes_no_other_copy(write_copies: Any) -> None:
    few = write_copies({"Ruby": [1, 2]}, "few", {"augment.images_per_class": 8})
    more = write_copies({"Agate": [9], "Ruby": [1, 2, 3, 4]}, "more", {"augment.images_per_class": 8})
    both = set(few) & set(more)
    assert both == {f"Ruby/photo{photo}_{number}.jpg" for photo in (1, 2) for number in (0, 1)}
    assert {path: few[path] for path in both} == {path: more[path] for path in both}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    write_copies: Any, tmp_path: Path, settings: Settings, workers: int
) -> None:
    changes = {"augment.images_per_class": 6}
    first = write_copies({"Agate": [1, 2, 3, 4], "Ruby": [5]}, "first", changes)
    params = settings(changes).augment
    augment.write_copies(tmp_path / "train-first", tmp_path / "again", params, image_size=32, seed=1, workers=workers)
    assert copies(tmp_path / "again") == first


def test_examples_are_photos_of_some_gems_and_copies_of_them(tmp_path: Path, draw: Draw, settings: Settings) -> None:
    train, params = tmp_path / "train", settings().augment
    for seed, gem in enumerate("ABCD"):
        (train / gem).mkdir(parents=True)
        draw(seed, size=(48, 48)).save(train / gem / "photo.png")
    augment.write_examples(train, tmp_path / "out", params, image_size=32, seed=1, gems=2, copies=3)
    rows = image_folder.list_images(tmp_path / "out")
    assert {gem: [path.name for path in row] for gem, row in rows.items()} == {
        gem: ["0.png", "1.png", "2.png", "3.png"] for gem in "AC"
    }
    for gem, row in rows.items():
        photo, *examples = (decode.load(path, 32) for path in row)
        np.testing.assert_array_equal(photo, decode.load(train / gem / "photo.png", 32))
        assert len({example.tobytes() for example in [photo, *examples]}) == 4


def test_small_classes_get_as_many_copies_as_they_lack(write_copies: Any, tmp_path: Path) -> None:
    changes = {"augment.target_per_class": 4, "augment.images_per_class": 9}
    written = write_copies(
        {"Agate": [1], "Opal": [2, 3, 4, 5], "Pearl": [6, 7, 8, 9, 10], "Ruby": [11, 12]}, "out", changes
    )
    assert Counter(path.split("/")[0] for path in written) == {"Agate": 3, "Ruby": 2}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Agate", "Ruby"]


@pytest.mark.parametrize(
    "recipe",
    [
        {"rotation": 25, "zoom": 0.1, "shift": 0.1, "shear": 0.2},  # 1.6, on the fly; on disk it is the default
        {"rotation": 90, "zoom": 0.2, "shift": 0.2, "shear": 0, "vertical_flip": True},  # 2.2
        {"rotation": 0, "zoom": 0.2, "shift": 0, "shear": 0.2},  # 3.1
    ],
    ids=["1.6", "2.2", "3.1"],
)
def test_recipes_are_settings(write_copies: Any, recipe: dict[str, Any]) -> None:
    changes = {f"augment.{key}": value for key, value in recipe.items()} | {"augment.images_per_class": 3}
    assert len(set(write_copies({"Ruby": [1, 2]}, "out", changes).values())) == 3


def test_new_edges_are_filled_as_the_parameter_says(draw: Draw, settings: Settings) -> None:
    given = np.full((8, 32, 32, 3), 200, np.float32)
    changes = NONE | {"augment.shift": 0.5}
    darkest = {
        fill: np.asarray(augmentation.augmenter(settings(changes | {"augment.fill": fill}).augment, seed=1)(
            given, training=True
        )).min()
        for fill in ("nearest", "reflect", "wrap", "constant")
    }  # fmt: skip
    assert darkest == {"nearest": 200, "reflect": 200, "wrap": 200, "constant": 0}


def test_without_transformations_a_copy_equals_the_photo(write_copies: Any, tmp_path: Path, draw: Draw) -> None:
    write_copies({"Ruby": [1]}, "out", NONE | {"augment.images_per_class": 1})
    with Image.open(tmp_path / "train-out" / "Ruby" / "photo1.jpg") as photo:
        expected = np.asarray(photo.resize((32, 32), Image.Resampling.BICUBIC), float)
    with Image.open(tmp_path / "out" / "Ruby" / "photo1_0.jpg") as copy:
        assert np.abs(np.asarray(copy, float) - expected).mean() < 3  # JPEG is lossy


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
            augmented = next(iter(data)).numpy()
        else:
            augmented = np.asarray(model(given, training=True))
        assert (augmented.shape, augmented.dtype) == (given.shape, np.float32)
        # float32 interpolation: weights whose sum is 1 within 1e-6, times 255.
        assert augmented.min() >= given.min() - 1e-3
        assert augmented.max() <= given.max() + 1e-3
        assert np.abs(augmented - given).max() > 1 or given is plain
    np.testing.assert_allclose(augmented, plain, atol=1e-3)


def fix_random_values(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Set the random values: angle, and in x and y each: shears, zooms, shifts, flips (below 0), all in [-1, 1]."""
    monkeypatch.setattr(
        "keras.random.uniform", lambda shape, *_, **__: tf.constant(values, tf.float32) * tf.ones(shape)
    )


@pytest.mark.parametrize(
    ("changes", "values", "source"),
    [
        ({"rotation": 180}, [0.5, 0, 0, 0, 0, 0, 0, 0, 0], lambda x, y: (-y, x)),
        ({"shear": 0.5}, [0, 1, 0, 0, 0, 0, 0, 0, 0], lambda x, y: (x + y / 2, y)),
        ({"shear": 0.5}, [0, 0, -1, 0, 0, 0, 0, 0, 0], lambda x, y: (x, y - x / 2)),
        ({"zoom": 0.5}, [0, 0, 0, -1, 1, 0, 0, 0, 0], lambda x, y: (x / 2, y * 1.5)),
        ({"shift": 0.25}, [0, 0, 0, 0, 0, 1, -0.5, 0, 0], lambda x, y: (x + 8, y - 4)),
        ({"rotation": 180, "zoom": 0.5, "shift": 0.25}, [0.5, 0, 0, -1, 0, 1, 0, 0, 0], lambda x, y: (-y / 2 + 8, x)),
        ({"rotation": 180, "horizontal_flip": True}, [0.5, 0, 0, 0, 0, 0, 0, -1, 0], lambda x, y: (y, x)),
        ({"shift": 0.25, "vertical_flip": True}, [0, 0, 0, 0, 0, 0, 1, 0, -1], lambda x, y: (x, 8 - y)),
    ],
    ids=["rotation", "shear x", "shear y", "zoom", "shift", "all", "horizontal flip", "vertical flip"],
)
def test_a_new_pixel_comes_from_the_position_of_the_formula(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], values: list[float], source: Any
) -> None:
    y, x = np.mgrid[:32, :32] - 15.5  # from the centre
    given = np.stack([x, y, x + y], axis=-1)[np.newaxis].astype(np.float32)  # each pixel holds its position
    model = augmentation.augmenter(
        settings(NONE | {f"augment.{name}": value for name, value in changes.items()}).augment, seed=1
    )
    fix_random_values(monkeypatch, values)
    from_x, from_y = np.broadcast_arrays(*source(x, y))
    inside = (np.abs(from_x) < 15.5) & (np.abs(from_y) < 15.5)
    assert inside.mean() > 0.3
    augmented = np.asarray(model(given, training=True))[0]
    # float32: positions of up to 32 pixels within 1e-5.
    np.testing.assert_allclose(
        augmented[inside], np.stack([from_x, from_y, from_x + from_y], axis=-1)[inside], atol=1e-3
    )


def test_a_flip_is_a_mirror_image(draw: Draw, settings: Settings) -> None:
    given = pixels(draw, 16)
    model = augmentation.augmenter(settings(NONE | {"augment.horizontal_flip": True}).augment, seed=1)
    augmented = np.asarray(model(given, training=True))
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(augmented, given, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(augmented, given, strict=True)]
    assert any(flipped)
    assert any(kept)
    assert sum(flipped) + sum(kept) == len(given)


def mean_hue(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hue of each photo's mean colour in degrees, and its distance from grey."""
    red, green, blue = given.mean(axis=(1, 2)).T
    x, y = 2 * red - green - blue, np.sqrt(3) * (green - blue)
    return np.degrees(np.arctan2(y, x)), np.hypot(x, y)


def hue_change(model: keras.Model, given: np.ndarray) -> float:
    """The mean change of the hue of a coloured photo by an augmentation, in degrees."""
    before, chroma = mean_hue(given)
    after, _ = mean_hue(np.asarray(model(given, training=True)))
    return float(np.abs((after - before + 180) % 360 - 180)[chroma > 60].mean())


@pytest.mark.parametrize("photos", ["drawn", pytest.param("real", marks=pytest.mark.photos)])
@pytest.mark.parametrize("fill", ["nearest", "reflect", "wrap"])
def test_the_hue_is_kept_unlike_by_a_small_change_of_hue(
    draw: Draw, settings: Settings, request: pytest.FixtureRequest, photos: str, fill: str
) -> None:
    if photos == "drawn":
        tints = [(1, 0.5, 0.2), (0.2, 1, 0.5), (0.5, 0.2, 1)]
        drawn = [draw(seed, size=(96, 96), tint=tints[seed % 3]) for seed in range(24)]
        given = np.stack([np.asarray(picture, np.float32) for picture in drawn])
    else:
        gems = image_folder.list_images(request.getfixturevalue("real_gems"))
        given = np.stack([decode.load(paths[0], 96).astype(np.float32) for paths in gems.values()])
    assert hue_change(augmentation.augmenter(settings({"augment.fill": fill}).augment, seed=3), given) < 1.5
    assert hue_change(layers.RandomHue(0.05, value_range=(0, 255), seed=3), given) > 3


def test_outside_of_training_nothing_changes(draw: Draw, settings: Settings) -> None:
    given = pixels(draw)
    model = augmentation.augmenter(settings().augment, seed=5)
    np.testing.assert_array_equal(np.asarray(model(given, training=False)), given)
    np.testing.assert_array_equal(model.predict(given, verbose=0), given)


def test_mixup_blends_photos_and_labels_by_the_same_fraction(tmp_path: Path, settings: Settings) -> None:
    greys = np.array([40, 110, 180, 250])
    for part in ("train", "val"):
        for name, grey in zip("abcd", greys, strict=True):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (grey, grey, grey)).save(tmp_path / part / name / f"{number}.png")

    def first_epoch(mixup: float) -> tuple[np.ndarray, np.ndarray]:
        # One batch: without base.deterministic several may come in any order; test_checkpoint has several, with it.
        params = settings({"base.image_size": 32, "train.batch_size": 12, "train.mixup": mixup})
        data = load_training_data(
            params.train, params.augment, base=params.base, split=tmp_path, augmentation_source="none"
        )
        for photos, labels in data.val:
            np.testing.assert_allclose(photos.numpy().mean(axis=(1, 2, 3)), labels.numpy() @ greys)
        data.reseed.on_epoch_begin(1)
        photos, labels = zip(*data.mixup(data.train).as_numpy_iterator(), strict=True)
        return np.concatenate(photos), np.concatenate(labels)

    photos, labels = first_epoch(1.0)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)  # float32 rounding of two addends
    assert (labels.max(axis=1) < 0.9).any()
    np.testing.assert_allclose(photos.mean(axis=(1, 2, 3)), labels @ greys, rtol=1e-4)  # a float32 mean of 3072 values
    again, _ = first_epoch(1.0)
    np.testing.assert_array_equal(photos, again)
    _, unmixed = first_epoch(0.0)
    assert set(unmixed.ravel()) == {0, 1}
