"""Fitting, joining and keeping a classifier, on problems of a second."""

import json
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image
from scipy.special import softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError, ModelError
from gemmodel.core.params import Params
from gemmodel.embed import embedding, extractor, feature_set, samples
from gemmodel.images import decode
from gemmodel.models import fusion, saving
from gemmodel.train import fit, fusion_head, kernel_ridge

Settings = Callable[..., Params]
CLASSES = ["Agate", "Ruby", "Rubín"]
LABELS = np.arange(60) % 3  # of the points of a cloud


def cloud(seed: int, number: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Points around three centres, and their one-hot labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    points = rng.normal(size=(number, 5)) + 3 * np.eye(3, 5)[labels]
    return points.astype(np.float32), np.eye(3, dtype=np.float32)[labels]


def batches(seed: int, number: int = 60) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(cloud(seed, number)).batch(20)


@pytest.fixture
def extractor(settings: Settings) -> keras.Model:
    changes = {"embed.views": ["photo"], "embed.weights": "none"}
    return extractor.extractor(settings(changes).embed, image_size=32)


@pytest.fixture
def model(extractor: keras.Model, settings: Settings) -> keras.Model:
    """An untrained fusion of random weights, with a head that has seen some features."""
    known = np.random.default_rng(0).normal(size=(20, extractor.output_shape[1])).astype(np.float32)
    return fusion.attach(extractor, fusion.softmax_head(settings().model.fusion, known, classes=3))


def photos(number: int = 3) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 255, (number, 32, 32, 3)).astype(np.float32)


def told(model: keras.Model, given: np.ndarray) -> np.ndarray:
    return np.asarray(model(given, training=False))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "plateau"])
def test_fit_learns(settings: Settings, optimizer: str, schedule: str) -> None:
    keras.utils.set_random_seed(1)
    params = settings(
        {"train.epochs": 12, "train.learning_rate": 0.05, "train.optimizer": optimizer, "train.schedule": schedule}
    ).train
    seen: list[tuple[int, dict[str, float]]] = []

    def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
        seen.append((epoch, dict(values)))

    small = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="softmax")])
    history = fit.fit(small, batches(1), batches(2, 30), params, labels=LABELS, on_epoch=on_epoch)
    assert [epoch for epoch, _ in seen] == list(range(12))
    assert {name: [values[name] for _, values in seen] for name in history} == history
    rate = {"learning_rate"} if schedule == "plateau" else set()
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"} | rate
    points, labels = cloud(3)
    assert (told(small, points).argmax(axis=1) == labels.argmax(axis=1)).mean() > 0.85


def test_a_plateau_halves_the_rate(settings: Settings) -> None:
    keras.utils.set_random_seed(2)
    changes = {"train.epochs": 8, "train.learning_rate": 8, "train.schedule": "plateau", "train.optimizer": "adam"}
    params = settings(changes | {"train.patience": 6}).train
    small = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="softmax")])
    history = fit.fit(small, batches(1), batches(2, 30), params, labels=LABELS, on_epoch=lambda *_: None)
    rate, best, wait = 8.0, np.inf, 0
    for loss, told_rate in zip(history["val_loss"], history["learning_rate"], strict=True):
        assert told_rate == rate
        best, wait = (loss, 0) if loss < best - 1e-4 else (best, wait + 1)
        if wait == 2:  # a third of the patience
            rate, wait = rate / 2, 0
    assert min(history["learning_rate"]) < 8


@pytest.mark.parametrize("patience", [2, 100])
def test_fit_keeps_the_best_epoch(settings: Settings, patience: int) -> None:
    keras.utils.set_random_seed(2)
    changes = {"train.epochs": 10, "train.learning_rate": 2, "train.schedule": "constant", "train.optimizer": "adam"}
    params = settings(changes | {"train.patience": patience}).train
    small = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="softmax")])
    weights: list[list[np.ndarray]] = []
    history = fit.fit(
        small,
        batches(1),
        batches(2, 30),
        params,
        labels=LABELS,
        on_epoch=lambda *_: weights.append(small.get_weights()),
    )
    best = int(np.argmin(history["val_loss"]))
    assert best < len(weights) - 1, "the problem must have got worse at its end"
    for kept, then in zip(small.get_weights(), weights[best], strict=True):
        np.testing.assert_array_equal(kept, then)
    assert len(weights) == (best + 1 + patience if patience == 2 else 10)
    summary = fit.summary(history)
    assert (summary["best_epoch"], summary["epochs"]) == (best, len(weights))
    assert summary["best_val_loss"] == pytest.approx(min(history["val_loss"]), abs=1e-6)


@pytest.mark.parametrize(("balance", "weights"), [("none", [1, 1, 1]), ("balanced", [0.5, 1.25, 5])])
def test_balanced_classes_weigh_the_same_in_the_loss(settings: Settings, balance: str, weights: list[float]) -> None:
    labels = np.repeat([0, 1, 2], [20, 8, 2])
    points = np.random.default_rng(4).normal(size=(30, 5)).astype(np.float32)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    data = tf.data.Dataset.from_tensor_slices((points, one_hot)).batch(10)
    changes = {"train.epochs": 1, "train.learning_rate": 1e-9, "train.label_smoothing": 0}
    params = settings(changes | {"train.class_weight": balance}).train
    small = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="softmax")])
    loss = -np.log((told(small, points) * one_hot).sum(axis=1))
    history = fit.fit(small, data, data, params, labels=labels, on_epoch=lambda *_: None)
    assert history["loss"][0] == pytest.approx((loss * np.take(weights, labels)).mean(), rel=1e-4)
    assert history["val_loss"][0] == pytest.approx(loss.mean(), rel=1e-4)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A split of three classes of 6, 3 and 1 training photos."""
    monkeypatch.setattr(extractor, "features_on_cpu", embedding.features_on_gpu)  # an export would take longer than all
    for part, numbers in (("train", (6, 3, 1)), ("val", (1, 1, 1))):
        for name, number in zip(CLASSES, numbers, strict=True):
            (tmp_path / part / name).mkdir(parents=True)
            for seed in range(number):
                pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{seed}.jpg")
    (tmp_path / "augmented").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["cnn", "fusion"])
def test_both_models_balance_the_classes_of_their_photos(
    settings: Settings, extractor: keras.Model, few: Path, name: str
) -> None:
    changes = {"base.image_size": 32, "train.epochs": 1, "train.label_smoothing": 0, "train.learning_rate": 1e-9}
    changes |= {"model.cnn.filters": [4], "model.cnn.pooling": ["max"], "model.cnn.dropout": 0}
    changes |= {"model.fusion.dropout": 0, "embed.views": ["photo"], "embed.weights": "none"}
    changes |= {"model.fusion.head": "softmax"}
    changes |= {
        "model.cnn.augmentation": "disk",
        "train.precision": "float32",
    }  # of which augment.target_per_class left nothing
    params = settings(changes | {"train.class_weight": "balanced"})
    common: dict[str, Any] = {"base": params.base, "on_epoch": lambda *_: None}
    keras.utils.set_random_seed(3)
    if name == "cnn":
        folders = {"split": few, "augmented": few / "augmented", "backup": few / "backup"}
        model, classes, history, *_ = fit.train_network(
            params.model.cnn, params.train, params.augment, **files, **common
        )
    else:
        embedding.embed({few / part: few / f"{part}.npz" for part in ("train", "val")}, extractor, classes=CLASSES)
        known, val = (feature_set.read(few / f"{part}.npz") for part in ("train", "val"))
        model, classes = fusion.softmax_head(params.model.fusion, known.features, classes=3), known.classes
        history = fusion_head.fit_softmax(
            model, known, val, seed=params.base.seed, train=params.train, on_epoch=lambda *_: None
        )
    paths, labels = samples.list_samples(few / "train", classes)
    assert np.bincount(labels).tolist() == [6, 3, 1]
    given = np.stack([decode.load(path, 32) for path in paths]).astype(np.float32)
    if name == "fusion":  # its extractor has random weights of its own: the cached features are what was seen
        given = known.features
    loss = -np.log(told(model, given)[np.arange(10), labels])
    assert history["loss"][0] == pytest.approx((loss * np.take([10 / 18, 10 / 9, 10 / 3], labels)).mean(), rel=1e-3)


def test_a_softmax_head_is_as_sure_as_the_validation_photos_allow(settings: Settings) -> None:
    rng = np.random.default_rng(5)
    known, weights = rng.normal(size=(4000, 4)).astype(np.float32), rng.normal(size=(4, 3))
    head = fusion.softmax_head(settings({"model.fusion.clip": 9}).model.fusion, known, classes=3)
    head.get_layer("gem").set_weights([weights, np.zeros(3)])
    labels = (told(head, known).cumsum(axis=1) < rng.uniform(size=(4000, 1))).sum(axis=1)
    for too_sure in (3.0, 0.5):
        head.get_layer("gem").set_weights([too_sure * weights, np.zeros(3)])
        found = fit.held_out_predictions(head, (known[:9], labels[:9], labels[:9].astype(str)), (known, labels))
        after = fusion_head.temperature_scale(head, found)
        np.testing.assert_allclose(head.get_layer("gem").get_weights()[0], weights, rtol=0.1)
        np.testing.assert_allclose(after.probabilities, told(head, known), atol=1e-4)


def test_a_head_standardises_by_the_training_features(settings: Settings) -> None:
    known = np.random.default_rng(0).normal(50, 7, (200, 4)).astype(np.float32)
    params = settings({"model.fusion.clip": 1.5}).model.fusion
    head = fusion.softmax_head(params, known, classes=3)
    kernel, bias = np.random.default_rng(1).normal(size=(4, 3)), np.array([0.1, 0.2, 0.3])
    head.get_layer("gem").set_weights([kernel, bias])
    score = np.clip((known - known.mean(axis=0)) / known.std(axis=0), -1.5, 1.5) @ kernel + bias
    expected = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(told(head, known), expected, atol=1e-4)


def test_a_feature_that_never_changes_does_no_harm(settings: Settings) -> None:
    known = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    known[:, 2] = 0
    head = fusion.softmax_head(settings().model.fusion, known, classes=3)
    assert np.isfinite(told(head, known)).all()
    assert np.isfinite(told(head, known + 5)).all()


def kernel(features: np.ndarray, blocks: list[int], clip: float, like: np.ndarray) -> np.ndarray:
    """The similarity of photos to others (`like`, the training photos), as its formula stands in the docstring."""
    standard = [np.clip((x - like.mean(axis=0)) / like.std(axis=0), -clip, clip) for x in (extractor, like)]
    ends = np.cumsum([0, *blocks])
    cosines = []
    for low, high in pairwise(ends):
        one, two = (x[:, low:high] / np.linalg.norm(x[:, low:high], axis=1, keepdims=True) for x in standard)
        cosines.append(one @ two.T)
    return ((1 + np.mean(cosines, axis=0)) / 2) ** 3


def test_the_kernel_head_is_calibrated_kernel_ridge_regression(settings: Settings) -> None:
    """Against scikit-learn's, and leave-one-out against leaving each photo out."""
    points, one_hot = cloud(5, 45)
    labels, new, blocks = one_hot.argmax(axis=1), cloud(6, 20)[0], [2, 3]
    changes = {"model.fusion.clip": 2, "model.fusion.degree": 3, "model.fusion.stacking_penalty": 0}
    params = settings(changes).model.fusion
    head, figures, left_out = kernel_ridge.kernel_head(params, points, labels, classes=3, blocks=blocks, penalty=0.2)
    grams = kernel(points, blocks, 2, points), kernel(new, blocks, 2, points)
    ridge = KernelRidge(alpha=0.2, kernel="precomputed").fit(grams[0], one_hot - 1 / 3)
    weights = np.where(labels == 0, 4.0, 0.5)
    heavy = ridge.fit(grams[0], one_hot - 1 / 3, sample_weight=weights).dual_coef_
    weighed, *_ = kernel_ridge.kernel_head(params, points, labels, classes=3, blocks=blocks, penalty=0.2 / weights)
    np.testing.assert_allclose(weighed.get_layer("gem_0").get_weights()[0], heavy, atol=1e-3)
    ridge = KernelRidge(alpha=0.2, kernel="precomputed").fit(grams[0], one_hot - 1 / 3)
    given = told(head, new)
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-5)
    score = ridge.predict(grams[1])
    b, a = (layer.scale for layer in head.layers if isinstance(layer, layers.Rescaling))
    exponential = np.exp(a * np.arcsinh(b * score))
    np.testing.assert_allclose(given, exponential / exponential.sum(axis=1, keepdims=True), atol=1e-3)
    right = []
    for left in range(45):
        rest = np.delete(np.arange(45), left)
        less = KernelRidge(alpha=0.2, kernel="precomputed").fit(grams[0][np.ix_(rest, rest)], one_hot[rest] - 1 / 3)
        right.append(less.predict(grams[0][left : left + 1, rest]).argmax() == labels[left])
    assert figures["accuracy"] == pytest.approx(np.mean(right)) == (left_out.argmax(axis=1) == labels).mean()


def test_confusions_are_softmax_regression_drawn_to_none() -> None:
    """Against scikit-learn's, which draws to 0; the class that is always taken for another one gets its photos back."""
    rng = np.random.default_rng(1)
    labels = np.arange(90) % 3
    scores = rng.normal(size=(90, 3)) + 2 * np.eye(3)[np.where(labels == 2, 1, labels)] + np.eye(3)[labels]
    known = LogisticRegression(C=1 / 5, fit_intercept=False, tol=1e-8).fit(scores, labels)
    found = kernel_ridge.fit_stacker(scores, labels, np.zeros((3, 3)), 5)
    np.testing.assert_allclose(found, known.coef_.T, atol=1e-2)
    none = np.eye(3)
    np.testing.assert_allclose(kernel_ridge.fit_stacker(scores, labels, none, 1e9), none, atol=1e-4)
    mended = scores @ kernel_ridge.fit_stacker(scores, labels, none, 1)
    mistaken = labels == 2
    assert (scores.argmax(axis=1) == 2)[mistaken].mean() < 0.2
    assert (mended.argmax(axis=1) == 2)[mistaken].mean() > 0.4
    assert (mended.argmax(axis=1) == labels).mean() > (scores.argmax(axis=1) == labels).mean()


def test_a_head_of_two_degrees_joins_their_scores(settings: Settings) -> None:
    """Against scikit-learn's ridge regressions; and no photo's own name tells of it when it is left out."""
    points, one_hot = cloud(5, 45)
    labels, new, blocks = one_hot.argmax(axis=1), cloud(6, 20)[0], [2, 3]
    params = settings({"model.fusion.clip": 2, "model.fusion.degree": [2, 5]}).model.fusion
    given: dict[str, Any] = {"classes": 3, "blocks": blocks, "penalty": 0.2}
    head, figures, left_out = kernel_ridge.kernel_head(params, points, labels, **given)
    scales = [layer.scale for layer in head.layers if isinstance(layer, layers.Rescaling)]
    scaled = []
    for degree, b, a in zip(params.degree, scales[:2], scales[2:], strict=True):
        grams = (kernel(x, blocks, 2, points) ** (degree / 3) for x in (points, new))
        ridge = KernelRidge(alpha=0.2, kernel="precomputed").fit(next(grams), one_hot - 1 / 3)
        scaled.append(a * np.arcsinh(b * ridge.predict(next(grams))))
    expected = softmax(np.concatenate(scaled, axis=1) @ head.get_layer("gem").get_weights()[0], axis=1)
    np.testing.assert_allclose(told(head, new), expected, atol=1e-3)
    np.testing.assert_allclose(left_out.sum(axis=1), 1, atol=1e-6)
    assert figures["accuracy"] == (left_out.argmax(axis=1) == labels).mean()
    unjoined = settings({"model.fusion.clip": 2, "model.fusion.degree": [2, 5], "model.fusion.stacking_penalty": 1e9})
    strict, *_, strict_left_out = kernel_ridge.kernel_head(unjoined.model.fusion, points, labels, **given)
    np.testing.assert_allclose(strict.get_layer("gem").get_weights()[0], np.tile(np.eye(3) / 2, (2, 1)), atol=1e-4)
    none = settings({"model.fusion.clip": 2, "model.fusion.degree": [2, 5], "model.fusion.stacking_penalty": 0})
    np.testing.assert_allclose(
        strict_left_out, kernel_ridge.kernel_head(none.model.fusion, points, labels, **given)[2], atol=1e-4
    )


def test_too_many_photos_for_a_kernel_are_told_with_the_remedy(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "MOST_PHOTOS", 59)
    points, one_hot = cloud(1)
    with pytest.raises(ModelError, match=r"60 photos .* set it to softmax"):
        kernel_ridge.kernel_head(
            settings().model.fusion, points, one_hot.argmax(axis=1), classes=3, blocks=[5], penalty=0.1
        )


def test_the_validation_photos_choose_the_penalty_and_then_teach(settings: Settings) -> None:
    points, one_hot = cloud(1)
    val, val_hot = cloud(2, 30)
    params = settings({"model.fusion.penalties": [1000, 0.1]}).model.fusion
    seen: list[int] = []
    parts = [
        feature_set.FeatureSet(x, hot.argmax(axis=1), np.arange(len(x)).astype(str), ["A", "B", "C"], [5])
        for x, hot in ((points, one_hot), (val, val_hot))
    ]
    head, history, _ = fusion_head.fit_kernel(
        params, *parts, train=settings().train, on_epoch=lambda number, values: seen.append(number)
    )
    assert seen == [0, 1]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    best = params.penalties[fit.summary(history)["best_epoch"]]
    assert best == params.penalties[int(np.argmin(history["val_loss"]))]
    both, labels = np.concatenate([points, val]), np.concatenate([one_hot, val_hot]).argmax(axis=1)
    again, *_ = kernel_ridge.kernel_head(params, both, labels, classes=3, blocks=[5], penalty=best)
    for one, other in zip(head.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    points, one_hot = cloud(3)
    assert (told(head, points).argmax(axis=1) == one_hot.argmax(axis=1)).mean() > 0.85


def write_features(
    folder: Path, part: str, number: int, extractor: keras.Model, rng: np.random.Generator
) -> np.ndarray:
    """Write features of three classes, drawn at random about each class's own number, and return them."""
    labels = np.arange(number) % 3
    known = (rng.normal(size=(number, extractor.output_shape[1])) + labels[:, None]).astype(np.float32)
    np.savez(
        folder / f"{part}.npz", features=known, labels=labels, classes=CLASSES, blocks=extractor.blocks(extractor),
        files=np.array([f"{part}{place}" for place in range(number)]),
    )  # fmt: skip
    return known


def test_validation_photos_that_set_the_sets_are_not_learnt_from(settings: Settings, tmp_path: Path) -> None:
    """Nothing of the head depends on them, so their scores and those of new photos are exchangeable."""
    changes = {"model.fusion.penalties": [1000, 0.1, 10], "model.fusion.refit_on_validation": False}
    params = settings(changes | {"embed.views": ["photo"], "embed.weights": "none", "base.image_size": 32})
    extractor = extractor.extractor(params.embed, image_size=32)
    rng = np.random.default_rng(7)
    fitted = []
    for draw in range(2):
        write_features(tmp_path, "train", 30, extractor, np.random.default_rng(1))
        known = write_features(tmp_path, "val", 12, extractor, rng)
        folder: dict[str, Any] = {"base": params.base, "folder": tmp_path, "on_epoch": lambda *_: None}
        fitted.append(fusion_head.train_fusion(params.model.fusion, params.train, params.embed, **folder))
        evidence = fitted[draw].evidence
        head = fitted[draw].model.get_layer("head")
        np.testing.assert_allclose(evidence.probabilities, told(head, known), atol=1e-5)
        assert evidence.reference.files.tolist() == [f"train{place}" for place in range(30)]
    heads = [one.model.get_layer("head").get_weights() for one in fitted]
    for one, other in zip(*heads, strict=True):
        np.testing.assert_array_equal(one, other)
    history = fitted[0].history
    best = fit.summary(history, fitted[0].chosen_by)["best_epoch"]
    assert best == int(np.argmin(history["loss"]))


@pytest.mark.parametrize("labels", ["all", "separate"])
def test_evidence_is_of_the_softmax_head_that_is_kept(settings: Settings, tmp_path: Path, labels: str) -> None:
    changes = {"model.fusion.head": "softmax", "model.fusion.labels": labels, "train.epochs": 2}
    params = settings(changes | {"embed.views": ["photo"], "embed.weights": "none", "base.image_size": 32})
    extractor = extractor.extractor(params.embed, image_size=32)
    known, val = (write_features(tmp_path, part, 12, extractor, np.random.default_rng(1)) for part in ("train", "val"))
    keras.utils.set_random_seed(1)
    fitted = fusion_head.train_fusion(
        params.model.fusion, params.train, params.embed, base=params.base, folder=tmp_path,
        hierarchy=dict(zip(CLASSES, "112", strict=True)), on_epoch=lambda *_: None,
    )  # fmt: skip
    kept = fitted.model.get_layer("head")
    np.testing.assert_allclose(fitted.evidence.probabilities, told(kept, val), atol=1e-5)

    keras.utils.set_random_seed(1)
    extractor.extractor(params.embed, image_size=32)
    plain = fusion.softmax_head(params.model.fusion, known, classes=3, parents=[0, 0, 1])
    parts = [feature_set.read(tmp_path / f"{part}.npz") for part in ("train", "val")]
    fusion_head.fit_softmax(plain, *parts, seed=params.base.seed, train=params.train, on_epoch=lambda *_: None)
    one, other = (head.get_layer("gem").get_weights()[0] for head in (kept, plain))
    scale = np.median(one / other)
    np.testing.assert_allclose(one, scale * other, atol=1e-5)
    assert (abs(scale - 1) > 0.01) == (labels == "all")  # one temperature has no meaning for products


def test_a_kernel_head_comes_back_as_the_same_bytes(tmp_path: Path, extractor: keras.Model, settings: Settings) -> None:
    known = told(extractor, photos(12))
    labels, blocks = np.arange(12) % 3, extractor.blocks(extractor)
    head, *_ = kernel_ridge.kernel_head(settings().model.fusion, known, labels, classes=3, blocks=blocks, penalty=0.1)
    whole = fusion.attach(extractor, head)
    for name in ("first", "second"):
        saving.save(whole, CLASSES, tmp_path / name)
    files = [(tmp_path / name / "model.keras").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]
    loaded, _ = saving.load(tmp_path / "first")
    np.testing.assert_array_equal(told(loaded, photos()), told(whole, photos()))
    np.testing.assert_allclose(told(loaded, photos(12)), told(head, known), atol=1e-4)


def test_an_attached_head_tells_what_it_tells_of_the_features(extractor: keras.Model, settings: Settings) -> None:
    known = told(extractor, photos(6))
    head = fusion.softmax_head(settings().model.fusion, known, classes=3)
    whole = fusion.attach(extractor, head)
    assert (whole.input_shape, whole.output_shape) == ((None, 32, 32, 3), (None, 3))
    np.testing.assert_allclose(told(whole, photos(6)), told(head, known), atol=1e-6)


def test_the_same_model_is_the_same_bytes_and_comes_back(tmp_path: Path, model: keras.Model) -> None:
    saving.save(model, CLASSES, tmp_path / "first")
    saving.save(model, CLASSES, tmp_path / "second")
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["classes.json", "input.json", "model.keras"]
    for name in ("model.keras", "classes.json", "input.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    loaded, classes = saving.load(tmp_path / "first")
    assert classes == CLASSES
    np.testing.assert_array_equal(told(loaded, photos()), told(model, photos()))


def test_other_weights_are_other_bytes(tmp_path: Path, model: keras.Model) -> None:
    saving.save(model, CLASSES, tmp_path / "first")
    model.layers[-1].get_layer("gem").set_weights([w + 1 for w in model.layers[-1].get_layer("gem").get_weights()])
    saving.save(model, CLASSES, tmp_path / "second")
    assert hashing.sha256(tmp_path / "first" / "model.keras") != hashing.sha256(tmp_path / "second" / "model.keras")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A saved model of three classes without a backbone."""
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, activation="softmax")])
    saving.save(network, CLASSES, tmp_path / "models")
    return tmp_path / "models"


def damaged_config(path: Path) -> None:
    with zipfile.ZipFile(path) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, body in content.items():
            new.writestr(name, b"{" if name == "config.json" else body)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: (folder / "model.keras").unlink(), DataError),
        (lambda folder: (folder / "classes.json").unlink(), DataError),
        (lambda folder: (folder / "classes.json").write_text(json.dumps(CLASSES[:2])), ModelError),
        (lambda folder: (folder / "classes.json").write_text("["), ModelError),
        (lambda folder: (folder / "model.keras").write_bytes(b"no archive"), ModelError),
        (lambda folder: (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:500]), ModelError),
        (lambda folder: damaged_config(folder / "model.keras"), ModelError),
    ],
    ids=["no model", "no classes", "a class short", "classes cut", "no archive", "archive cut", "config cut"],
)
def test_a_model_that_cannot_be_used_is_named(
    small: Path, spoil: Callable[[Path], Any], error: type[Exception]
) -> None:
    assert saving.load(small)[1] == CLASSES
    spoil(small)
    with pytest.raises(error, match=r"models"):
        saving.load(small)


def test_pixels_come_in_one_order_whether_they_are_kept_or_read_anew(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.png" for place in range(20)]
    for place, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), 10 * place, np.uint8)).save(path)
    seed = tf.Variable(5, dtype=tf.int64)
    epochs: dict[bool, list[list[int]]] = {}
    for keep in (True, False):
        data = samples.batches(
            paths, np.arange(20) % 3, classes=3, image_size=8, batch_size=4, shuffle_seed=seed, keep=keep
        )
        epochs[keep] = []
        for number in (5, 6):
            seed.assign(number)
            told = [
                (int(x[0, 0, 0]) // 10, int(y.argmax()))
                for xs, ys in data
                for x, y in zip(xs.numpy(), ys.numpy(), strict=True)
            ]
            assert all(place % 3 == label for place, label in told)
            epochs[keep].append([place for place, _ in told])
    assert epochs[True] == epochs[False]
    assert epochs[True][0] != epochs[True][1]


def test_of_many_photos_a_model_remembers_some(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "REMEMBERED", 12)
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    labels, files = np.arange(40) % 3, np.array([f"{place}" for place in range(40)])
    head = fusion.softmax_head(settings().model.fusion, points, classes=3)
    found = fit.held_out_predictions(head, (points, labels, files), (points[:6], labels[:6])).reference
    places = found.files.astype(int)
    assert len(set(places)) == 12 and found.labels.tolist() == (places % 3).tolist()
    whole = saving.with_embedding(head).predict(points, verbose=0)[1]
    np.testing.assert_allclose(found.embedding, whole[places], atol=1e-6)
