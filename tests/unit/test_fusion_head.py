"""Fusion's heads: standardising, calibration, the choice of the penalty, and which photos they are fitted to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from gemmodel.core.params import Params
from gemmodel.embed import feature_set
from gemmodel.embed.extractor import blocks, extractor
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import fusion
from gemmodel.train import fit, fusion_head
from gemmodel.train.context import TrainingContext
from gemmodel.train.kernel_ridge import KernelRidge

Settings = Callable[..., Params]
Cloud = Callable[..., tuple[np.ndarray, np.ndarray]]
CLASSES = ["Agate", "Ruby", "Rubín"]
SMALL = {"embed.views": ["photo"], "embed.weights": "none", "base.image_size": 32}


def as_feature_set(features: np.ndarray, labels: np.ndarray, prefix: str = "") -> FeatureSet:
    files = np.array([f"{prefix}{i}" for i in range(len(labels))])
    return FeatureSet(features, labels, files, CLASSES, {"maps": features.shape[1]})


def probabilities(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    outputs = model(inputs, training=False)
    return np.asarray(outputs[0] if len(model.outputs) > 1 else outputs)


def test_a_softmax_head_standardises_and_clips_by_the_training_features(settings: Settings) -> None:
    features = np.random.default_rng(0).normal(50, 7, (200, 4)).astype(np.float32)
    head = fusion.softmax_head(settings({"model.fusion.clip": 1.5}).model.fusion, features, classes=3)
    weights, bias = np.random.default_rng(1).normal(size=(4, 3)), np.array([0.1, 0.2, 0.3])
    head.get_layer("gem").set_weights([weights, bias])
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    logits = np.clip(standardised, -1.5, 1.5) @ weights + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # float32: a mean of 50 and its features lose some 1e-5 of a standard deviation of 7
    np.testing.assert_allclose(probabilities(head, features), expected, atol=1e-4)


def test_a_constant_feature_gives_finite_probabilities(settings: Settings) -> None:
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    features[:, 2] = 0
    head = fusion.softmax_head(settings().model.fusion, features, classes=3)
    assert np.isfinite(probabilities(head, features)).all()
    assert np.isfinite(probabilities(head, features + 5)).all()


def test_an_attached_head_gives_the_probabilities_of_the_features(settings: Settings) -> None:
    pixels_to_features = extractor(settings(SMALL).embed, image_size=32)
    pixels = np.random.default_rng(9).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    features = probabilities(pixels_to_features, pixels)
    head = fusion.softmax_head(settings().model.fusion, features, classes=3)
    model = fusion.attach(pixels_to_features, head)
    assert (model.input_shape, model.outputs[0].shape) == ((None, 32, 32, 3), (None, 3))
    # The same float32 layers on the same features; two runs of the backbone may differ in the last digits.
    np.testing.assert_allclose(probabilities(model, pixels), probabilities(head, features), atol=1e-6)


def test_class_weights_apply_to_a_softmax_head(settings: Settings) -> None:
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    features = np.random.default_rng(3).normal(size=(10, 5)).astype(np.float32)
    changes = {"train.epochs": 1, "train.label_smoothing": 0, "train.learning_rate": 1e-9}
    params = settings(changes | {"train.class_weight": "balanced", "model.fusion.dropout": 0})
    head = fusion.softmax_head(params.model.fusion, features, classes=3)
    photos = as_feature_set(features, labels)
    history = fusion_head.fit_softmax(head, photos, photos, seed=1, params=params.train)
    loss = -np.log(probabilities(head, features)[np.arange(10), labels])
    weights = np.take([10 / 18, 10 / 9, 10 / 3], labels)
    assert history["loss"][0] == pytest.approx((loss * weights).mean(), rel=1e-4)  # float32 sums


def test_class_weights_divide_the_penalty_of_a_kernel_head(settings: Settings, cloud: Cloud) -> None:
    features, labels = (array[:40] for array in cloud(1))
    labels = np.where(labels == 2, 0, labels)  # 27 and 13 photos, none of the third class
    params = settings({"train.class_weight": "balanced", "model.fusion.refit_on_validation": False})
    photos = as_feature_set(features, labels)
    balanced, _ = fusion_head.fit_kernel(params.model.fusion, photos, photos, params=params.train)
    penalties = 0.1 / np.take([40 / 54, 40 / 26], labels)
    expected = KernelRidge(params.model.fusion, classes=3, blocks=[5], penalty=penalties).fit(features, labels)
    np.testing.assert_array_equal(balanced.loo_probs_, expected.loo_probs_)


def test_temperature_scaling_recovers_the_true_confidence(settings: Settings) -> None:
    rng = np.random.default_rng(5)
    features, weights = rng.normal(size=(4000, 4)).astype(np.float32), rng.normal(size=(4, 3))
    head = fusion.softmax_head(settings({"model.fusion.clip": 9}).model.fusion, features, classes=3)
    head.get_layer("gem").set_weights([weights, np.zeros(3)])
    labels = (probabilities(head, features).cumsum(axis=1) < rng.uniform(size=(4000, 1))).sum(axis=1)
    for confidence in (3.0, 0.5):
        head.get_layer("gem").set_weights([confidence * weights, np.zeros(3)])
        held_out = fit.held_out_predictions(
            head, train_inputs=features[:9], train_labels=labels[:9], train_files=labels[:9].astype(str),
            val_inputs=features, val_labels=labels,
        )  # fmt: skip
        scaled = fusion_head.temperature_scale(head, held_out)
        # Labels drawn at random: with 4,000 photos the temperature has a standard error of a few per cent.
        np.testing.assert_allclose(head.get_layer("gem").get_weights()[0], weights, rtol=0.1)
        # The logits of `scaled` are logarithms of float32 probabilities.
        np.testing.assert_allclose(scaled.probabilities, probabilities(head, features), atol=1e-4)


def test_validation_photos_select_the_penalty_and_are_then_trained_on(settings: Settings, cloud: Cloud) -> None:
    train, val = as_feature_set(*cloud(1)), as_feature_set(*cloud(2, 30))
    params = settings({"model.fusion.penalties": [0.1, 1000]})
    epochs: list[int] = []
    ridge, history = fusion_head.fit_kernel(
        params.model.fusion, train, val, params=params.train, on_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert epochs == [0, 1]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    best = fit.summary(history)["best_epoch"]
    assert best == int(np.argmin(history["val_loss"])) == 1
    both = train.concat(val)
    expected = KernelRidge(params.model.fusion, classes=3, blocks=[5], penalty=1000).fit(both.features, both.labels)
    np.testing.assert_array_equal(ridge.loo_probs_, expected.loo_probs_)
    features, labels = cloud(3)
    np.testing.assert_array_equal(ridge.predict_proba(features), expected.predict_proba(features))
    assert (ridge.predict_proba(features).argmax(axis=1) == labels).mean() > 0.85


@pytest.fixture
def write_features(tmp_path: Path, settings: Settings) -> Callable[..., FeatureSet]:
    """Write a feature file of one part: features of three classes, drawn around the index of each class."""
    sizes = blocks(extractor(settings(SMALL).embed, image_size=32))

    def write(part: str, photos: int, rng: np.random.Generator) -> FeatureSet:
        labels = np.arange(photos) % 3
        features = (rng.normal(size=(photos, sum(sizes.values()))) + labels[:, None]).astype(np.float32)
        drawn = as_feature_set(features, labels, part)._replace(blocks=sizes)
        feature_set.write(tmp_path / f"{part}.npz", drawn)
        return drawn

    return write


@pytest.fixture
def context(tmp_path: Path, settings: Settings) -> Callable[..., TrainingContext]:
    """Return the inputs of a training on the feature files of `write_features`, with some parameters changed."""

    def make(changes: dict[str, Any]) -> TrainingContext:
        hierarchy = dict(zip(CLASSES, ("Quartz", "Corundum", "Corundum"), strict=True))
        folders = {name: tmp_path / name for name in ("split", "augmented", "checkpoints")}
        return TrainingContext(settings(SMALL | changes), features=tmp_path, hierarchy=hierarchy, **folders)

    return make


def test_reserved_validation_photos_do_not_change_the_head(
    context: Callable[..., TrainingContext], write_features: Callable[..., FeatureSet]
) -> None:
    """Without `refit_on_validation` their scores and those of new photos are exchangeable."""
    changes = {"model.fusion.penalties": [1000, 0.1, 10], "model.fusion.refit_on_validation": False}
    results, rng = [], np.random.default_rng(7)
    for _ in range(2):
        write_features("train", 30, np.random.default_rng(1))
        val = write_features("val", 12, rng)  # others each time
        results.append(fusion_head.train_fusion(context(changes)))
        held_out, head = results[-1].held_out, results[-1].model.get_layer("head")
        # float32 matrix products of other batch sizes may differ in the last digits
        np.testing.assert_allclose(held_out.probabilities, probabilities(head, val.features), atol=1e-5)
        assert held_out.reference.files.tolist() == [f"train{i}" for i in range(30)]
    for a, b in zip(*(result.model.get_layer("head").get_weights() for result in results), strict=True):
        np.testing.assert_array_equal(a, b)
    history = results[0].history
    assert fit.summary(history, results[0].selection_metric)["best_epoch"] == int(np.argmin(history["loss"]))


def test_a_refitted_kernel_head_has_the_leave_one_out_predictions_of_all_photos(
    context: Callable[..., TrainingContext], write_features: Callable[..., FeatureSet]
) -> None:
    both = write_features("train", 30, np.random.default_rng(1)).concat(
        write_features("val", 12, np.random.default_rng(2))
    )
    inputs = context({})
    held_out = fusion_head.train_fusion(inputs).held_out
    sizes = list(both.blocks.values())
    ridge = KernelRidge(inputs.params.model.fusion, classes=3, blocks=sizes, penalty=0.1)
    np.testing.assert_array_equal(held_out.probabilities, ridge.fit(both.features, both.labels).loo_probs_)
    assert held_out.embedding is None
    assert held_out.reference.files.tolist() == both.files.tolist()
    # The embedding keeps the inner products of the photos; the float32 graph and NumPy round differently.
    inner, expected = (x @ x.T for x in (held_out.reference.embedding, ridge.support_))
    np.testing.assert_allclose(inner, expected, atol=1e-4)


@pytest.mark.parametrize("labels", ["all", "separate"])
def test_held_out_predictions_are_those_of_the_scaled_softmax_head(
    context: Callable[..., TrainingContext], write_features: Callable[..., FeatureSet], labels: str
) -> None:
    train, val = (write_features(part, 12, np.random.default_rng(1)) for part in ("train", "val"))
    inputs = context({"model.fusion.head": "softmax", "model.fusion.labels": labels, "train.epochs": 2})
    params = inputs.params
    keras.utils.set_random_seed(1)
    result = fusion_head.train_fusion(inputs)
    head = result.model.get_layer("head")
    # float32 matrix products of other batch sizes may differ in the last digits
    np.testing.assert_allclose(result.held_out.probabilities, probabilities(head, val.features), atol=1e-5)

    keras.utils.set_random_seed(1)
    extractor(params.embed, image_size=32)  # draws random weights, as in train_fusion
    plain = fusion.softmax_head(params.model.fusion, train.features, classes=3, parents=[1, 0, 0])
    fusion_head.fit_softmax(plain, train, val, seed=params.base.seed, params=params.train)
    scaled, unscaled = (model.get_layer("gem").get_weights()[0] for model in (head, plain))
    temperature = np.median(unscaled / scaled)
    np.testing.assert_allclose(scaled * temperature, unscaled, atol=1e-5)  # one float32 product
    assert (abs(temperature - 1) > 0.01) == (labels == "all")  # one temperature has no meaning for products
